"""Which box of a volume a sample reads: a random one, or one around a voxel of a class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

MOST_POSITIONS = 4096
"""Voxels kept of a class: enough that their choice does not matter, 24 KiB a class."""


def class_positions(label: Tensor, num_classes: int) -> dict[int, Tensor]:
    """Voxels of each class of a label, found once when the case is cached.

    MONAI's ``RandCropByLabelClassesd`` searches the label for every sample, or keeps the indices of all voxels.

    Args:
        label: ``(1, H, W, D)``, class indices.
        num_classes: number of foreground classes ``C``.

    Returns:
        By class ``(n, 3)``, int32, at most ``MOST_POSITIONS`` drawn at random; classes without a voxel are left out.
    """
    volume = convert_to_tensor(label, track_meta=False)[0].numpy()
    random = np.random.default_rng(0)
    positions = {}
    for index in range(1, num_classes + 1):
        voxels = np.flatnonzero(volume == index)
        if len(voxels):
            chosen = random.choice(voxels, min(len(voxels), MOST_POSITIONS), replace=False)
            positions[index] = torch.from_numpy(np.stack(np.unravel_index(chosen, volume.shape), 1).astype(np.int32))
    return positions


def draw_position(positions: Mapping[int, Tensor], prob: float, seed: int | None) -> tuple[int, ...] | None:
    """With probability ``prob`` a voxel of one of the classes, each as likely as the others.

    Args:
        positions: of ``class_positions``; without any there is no voxel to draw.
        prob: probability.
        seed: seed of the sample; its draws are none of those of other transforms.

    Returns:
        The voxel, or ``None``.
    """
    random = np.random.default_rng(None if seed is None else [seed, 1])
    if not positions or random.random() >= prob:
        return None
    voxels = positions[sorted(positions)[random.integers(len(positions))]]
    return tuple(voxels[random.integers(len(voxels))].tolist())


def random_box(shape: Sequence[int], region: Sequence[int], seed: int | None) -> list[slice]:
    """A box of ``region`` voxels by axis anywhere in the volume; the whole axis where that has fewer."""
    random = np.random.default_rng(seed)
    firsts = [int(random.integers(max(size - most, 0) + 1)) for size, most in zip(shape, region, strict=True)]
    return [slice(first, first + most) for first, most in zip(firsts, region, strict=True)]


def box_around(position: Sequence[int], patch_size: Sequence[int], shape: Sequence[int]) -> list[slice]:
    """Box of a patch around a voxel, moved to lie inside the volume; square in the plane.

    Args:
        position: voxel in the middle.
        patch_size: voxels by axis.
        shape: voxels by axis of the volume; along an axis with fewer than the box has, the box is the whole axis.

    Returns:
        A slice for each axis.
    """
    side = max(patch_size[:2])  # patches are turned by 90 degrees before they get their size
    box = []
    for voxel, length, size in zip(position, (side, side, patch_size[2]), shape, strict=True):
        first = min(max(voxel - length // 2, 0), max(size - length, 0))
        box.append(slice(first, first + length))
    return box


def cut(item: Mapping[str, Any], box: Sequence[slice]) -> dict[str, Any]:
    """The box of all volumes ``(channels, H, W, D)`` of an item, still memory-mapped."""
    return {key: value[:, *box] if isinstance(value, Tensor) else value for key, value in item.items()}


def without_voxels(cases: Iterable[Mapping[int, Tensor]], num_classes: int) -> list[int]:
    """Classes that none of the cases has a voxel of."""
    found: set[int] = set().union(*cases)
    return sorted(set(range(1, num_classes + 1)) - found)
