"""Which box of a volume a sample reads: a random one, or one around a voxel of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor


def random_box(
    shape: Sequence[int], region: Sequence[int], seed: int | None, place: Sequence[float] | None = None
) -> list[slice]:
    """A box of ``region`` voxels by axis anywhere in the volume, or at ``place``, relative from 0 (first) to 1 (last).

    The whole axis where that has fewer voxels.
    """
    random = np.random.default_rng(seed)
    last = [max(size - most, 0) for size, most in zip(shape, region, strict=True)]
    if place is None:
        firsts = [int(random.integers(most + 1)) for most in last]
    else:
        firsts = [round(relative * most) for relative, most in zip(place, last, strict=True)]
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
