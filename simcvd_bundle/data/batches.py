"""Batches of named streams: which cases a batch holds, and how their patches are put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from simcvd_bundle.data.iterations import IterationSampler, SampleIndex, in_turn

logger = logging.getLogger(__name__)

STREAMS = {"labeled": ("image", "label", "sdm"), "unlabeled": ("image",)}
"""The streams that a batch may have, in their order, and the entries that a patch of each brings."""


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


def used_streams(streams: Mapping[str, int]) -> dict[str, int]:
    """Streams with at least one patch a batch, in the order of ``STREAMS``.

    Args:
        streams: patches a batch and process by stream.

    Raises:
        ValueError: when a stream is unknown, a size is no integer of at least 0, or all are 0.
    """
    unknown = streams.keys() - STREAMS.keys()
    if unknown:
        raise ValueError(f"streams names {', '.join(sorted(unknown))}: the known ones are {', '.join(STREAMS)}.")
    for name, size in streams.items():
        if type(size) is not int or size < 0:
            raise ValueError(f"{name}_batch_size is {size!r}, but must be an integer of at least 0.")
    used = {name: streams[name] for name in STREAMS if streams.get(name, 0) > 0}
    if not used:
        raise ValueError("A batch would be empty: set labeled_batch_size or unlabeled_batch_size to at least 1.")
    return used


class StreamBatchSampler(IterationSampler):
    """Batches of one or more streams, each with its own number of patches, one stream after the other.

    The stream ``labeled`` draws from the cases with a label, ``unlabeled`` from those without; where there are none of
    these, the labelled cases feed it too. Each stream runs through its cases in a new random order every time round,
    and never ends. What a batch holds, the seeds of its transforms included, is a pure function of the seed and the
    iteration: a resumed run, any number of loader workers and any prefetching see the same batches.

    Args:
        dataset: its ``data`` is the datalist; an item with a ``label`` is labelled.
        streams: patches a batch and process by stream; one of size 0 is left out.
        num_iterations: iterations of the whole training.
        seed: seed of the orders and of the transforms.
        rank: this process among ``world_size``; the global batch is cut into equal shares without overlap.
        world_size: number of processes.

    Raises:
        ValueError: when a stream, a size or the rank is out of its range, or a stream has no case.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        streams: Mapping[str, int],
        num_iterations: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(num_iterations, seed, rank, world_size)
        self.sizes = used_streams(streams)
        self.cases: Sequence[Mapping[str, Any]] = dataset.data  # type: ignore[attr-defined]
        labeled = [i for i, item in enumerate(self.cases) if item.get("label") is not None]
        unlabeled = [i for i, item in enumerate(self.cases) if item.get("label") is None]
        logger.info("labeled images=%d, unlabeled images=%d", len(labeled), len(unlabeled))
        if "unlabeled" in self.sizes and not unlabeled:
            logger.info("No unlabeled image: the labeled ones feed the unsupervised terms too.")
        self.pools = {"labeled": labeled, "unlabeled": unlabeled or labeled}
        if "labeled" in self.sizes and not labeled:
            raise ValueError("The training datalist has no labelled case: give at least one item a `label`.")

    def pool(self, stream: str, iteration: int) -> list[int]:
        """Cases that a stream draws from at an iteration (from 0)."""
        return self.pools[stream]

    def batch(self, iteration: int) -> list[SampleIndex]:
        """Batch of one iteration (from 0) on this rank."""
        batch = []
        for number, stream in enumerate(STREAMS):  # a stream draws the same whatever the others do
            size, pool = self.sizes.get(stream, 0), self.pool(stream, iteration)
            first = (iteration * self.world_size + self.rank) * size
            for position in range(first, first + size):
                case = pool[in_turn(position, len(pool), self.seed, number)]
                seed = np.random.SeedSequence([self.seed, number, position]).generate_state(1)[0]
                batch.append(SampleIndex(case, int(seed)))
        return batch


def collate_streams(items: Sequence[Mapping[str, Any]], streams: Mapping[str, int]) -> dict[str, dict[str, Tensor]]:
    """Stack the patches of each stream.

    Args:
        items: patches, stream after stream: ``image`` ``(channels, H, W, D)``; those of ``labeled`` also ``label``
            ``(1, H, W, D)`` and ``sdm`` ``(C, H, W, D)``.
        streams: patches by stream, as for the sampler.

    Returns:
        Plain tensors by stream and entry, such as ``["labeled"]["image"]`` ``(B, channels, H, W, D)``.
    """
    batch, first = {}, 0
    for stream, size in used_streams(streams).items():
        chosen = items[first : first + size]
        batch[stream] = {
            key: torch.stack([convert_to_tensor(item[key], track_meta=False) for item in chosen])
            for key in STREAMS[stream]
        }
        first += size
    return batch


def prepare_batch(
    batch: Mapping[str, Mapping[str, Tensor]], device: torch.device | str | None = None, non_blocking: bool = False,
    **to: Any,
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:  # fmt: skip
    """Move a collated batch to ``device``: all of it, and what of it the loss takes as target, without the images."""
    moved = {
        stream: {key: value.to(device=device, non_blocking=non_blocking, **to) for key, value in entries.items()}
        for stream, entries in batch.items()
    }
    target = {
        stream: {key: value for key, value in entries.items() if key != "image"} for stream, entries in moved.items()
    }
    return moved, target
