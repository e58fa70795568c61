"""The cached dataset of whole volumes and the collation of a two-stream batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import CacheDataset
from monai.utils import convert_to_tensor
from torch import Tensor

from simcvd_bundle.samplers import SampleIndex


class SeededCacheDataset(CacheDataset):
    """MONAI's ``CacheDataset`` whose random transforms are seeded by the sampler, sample by sample.

    MONAI seeds transforms per worker, so its samples depend on the number of workers and cannot be resumed.
    """

    def __getitem__(self, index: Any) -> Any:
        """Item of a ``SampleIndex``, or as in ``CacheDataset``."""
        if isinstance(index, SampleIndex):
            self.transform.set_random_state(seed=index.seed)
            return super().__getitem__(index.case)
        return super().__getitem__(index)


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
