"""The two-stream batch sampler: labelled patches first, unlabelled patches after them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset, Sampler


def collate_two_streams(items: Sequence[Mapping[str, Any]], labeled_batch_size: int) -> dict[str, Tensor]:
    """Stack the images of all items, and ``label`` and ``sdm`` of the labelled ones, which come first.

    Args:
        items: ``image`` ``(channels, H, W, D)``; the first ``labeled_batch_size`` also ``label`` and ``sdm``.
        labeled_batch_size: number of labelled items.

    Returns:
        Plain tensors ``image`` ``(B, channels, H, W, D)``, ``label`` ``(L, 1, H, W, D)``, ``sdm`` ``(L, C, H, W, D)``.
    """

    def stack(key: str, chosen: Sequence[Mapping[str, Any]]) -> Tensor:
        return torch.stack([convert_to_tensor(item[key], track_meta=False) for item in chosen])

    labeled = items[:labeled_batch_size]
    return {"image": stack("image", items), "label": stack("label", labeled), "sdm": stack("sdm", labeled)}


def prepare_batch(
    batch: Mapping[str, Tensor], device: torch.device | str | None = None, non_blocking: bool = False, **to: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Move a collated batch to ``device``: the image, and ``label`` and ``sdm`` as the loss's target."""
    moved = {key: value.to(device=device, non_blocking=non_blocking, **to) for key, value in batch.items()}
    return moved.pop("image"), moved


logger = logging.getLogger(__name__)


class SampleIndex(NamedTuple):
    """Which case to load and the seed of its random transforms."""

    case: int
    seed: int


def case_share(dataset: Dataset[Any], rank: int = 0, world_size: int = 1) -> range:
    """Cases of a validation or evaluation that this process takes: each case goes to one process.

    With fewer cases than processes all take all of them: MONAI's metrics cannot be reduced when a process has no case,
    and cases that all processes repeat equally often leave every mean as it is.

    Args:
        dataset: dataset of whole cases.
        rank: this process among ``world_size``.
        world_size: number of processes.

    Returns:
        Indices, the ``sampler`` of a loader. (MONAI's ``DistributedSampler`` raises when a process would get no case.)
    """
    size = len(dataset)  # type: ignore[arg-type]
    return range(size) if size < world_size else range(rank, size, world_size)


class TwoStreamBatchSampler(Sampler[list[SampleIndex]]):
    """Batches of ``labeled_batch_size`` labelled and ``unlabeled_batch_size`` unlabelled cases, in this order.

    Each stream runs through its cases in a new random order every time round, and never ends. What a batch holds, the
    seeds of its transforms included, is a pure function of the seed and the iteration: a resumed run, any number of
    loader workers and any prefetching see the same batches. Without unlabelled cases the labelled ones feed both
    streams.

    Args:
        dataset: its ``data`` is the datalist; an item with a ``label`` is labelled.
        labeled_batch_size: labelled patches a batch and process.
        unlabeled_batch_size: unlabelled patches a batch and process, 0 for supervised training.
        num_iterations: iterations of the whole training.
        seed: seed of the orders and of the transforms.
        rank: this process among ``world_size``; the global batch is cut into equal shares without overlap.
        world_size: number of processes.

    Attributes:
        start: iteration to begin with, set when a run is resumed.

    Raises:
        ValueError: when a size is out of its range or the dataset has no labelled case.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        labeled_batch_size: int,
        unlabeled_batch_size: int,
        num_iterations: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if labeled_batch_size < 1 or unlabeled_batch_size < 0:
            raise ValueError(
                "labeled_batch_size must be at least 1 and unlabeled_batch_size at least 0, "
                f"got {labeled_batch_size} and {unlabeled_batch_size}."
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0 .. world_size - 1, got rank {rank} of {world_size}.")
        items: Sequence[Mapping[str, Any]] = dataset.data  # type: ignore[attr-defined]
        self.labeled = [i for i, item in enumerate(items) if item.get("label") is not None]
        self.unlabeled = [i for i, item in enumerate(items) if item.get("label") is None]
        if not self.labeled:
            raise ValueError("The training datalist has no labelled case: give at least one item a `label`.")
        logger.info("labeled images=%d, unlabeled images=%d", len(self.labeled), len(self.unlabeled))
        if not self.unlabeled and unlabeled_batch_size:
            logger.info("No unlabeled image: the labeled ones feed the unsupervised terms too.")
        self.labeled_batch_size = labeled_batch_size
        self.unlabeled_batch_size = unlabeled_batch_size
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
        pools = (self.labeled, self.unlabeled or self.labeled)
        sizes = (self.labeled_batch_size, self.unlabeled_batch_size)
        batch = []
        for stream, (pool, size) in enumerate(zip(pools, sizes, strict=True)):
            first = (iteration * self.world_size + self.rank) * size
            for position in range(first, first + size):
                round_number, place = divmod(position, len(pool))
                order = np.random.default_rng([self.seed, stream, round_number]).permutation(len(pool))
                seed = np.random.SeedSequence([self.seed, stream, position]).generate_state(1)[0]
                batch.append(SampleIndex(pool[order[place]], int(seed)))
        return batch
