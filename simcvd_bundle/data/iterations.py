"""Batches as a function of seed and iteration: what all samplers of a training share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler


class SampleIndex(NamedTuple):
    """Which case to load, the seed of its random transforms, and where its box lies.

    Attributes:
        case: number of the item.
        seed: seed of the transforms.
        place: relative place of the box along each axis, 0 the first possible and 1 the last; drawn by ``seed`` when it
            is ``None``. See ``DiskCacheDataset``.
    """

    case: int
    seed: int
    place: tuple[float, ...] | None = None


def in_turn(position: int, size: int, *seed: int) -> int:
    """Who is at a position when ``size`` members take turns without end, in a new random order every time round."""
    number, place = divmod(position, size)
    return int(np.random.default_rng([*seed, number]).permutation(size)[place])


class IterationSampler(Sampler[list[SampleIndex]]):
    """Batches of iterations ``start`` to ``num_iterations``, each a pure function of seed and iteration.

    Args:
        num_iterations: iterations of the whole training.
        seed: seed of all draws.
        rank: this process among ``world_size``.
        world_size: number of processes.

    Attributes:
        cases: items of the datalist.
        start: iteration to begin with, set when a run is resumed.

    Raises:
        ValueError: when the rank is out of its range.
    """

    cases: Sequence[Mapping[str, Any]]

    def __init__(self, num_iterations: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0 .. world_size - 1, got rank {rank} of {world_size}.")
        self.num_iterations = num_iterations
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = 0

    def __len__(self) -> int:
        """Batches left from ``start`` on."""
        return max(self.num_iterations - self.start, 0)

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        """Yield the batches of iterations ``start`` to ``num_iterations``."""
        for iteration in range(self.start, self.num_iterations):
            yield self.batch(iteration)

    def batch(self, iteration: int) -> list[SampleIndex]:
        """Batch of one iteration (from 0) on this rank."""
        raise NotImplementedError
