"""Read and crop volumes without losing track of where each voxel lies in the world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.croppad.array import SpatialCrop
from monai.transforms.utils import generate_spatial_bounding_box

from simcvd_bundle.data import reading
from simcvd_bundle.data.reading import Grid, open_volume, read_scan


def read_volume(path: Path) -> MetaTensor:
    """Read one scalar 3D volume, shape 1HWD, float32, with its affine in the RAS convention of NIfTI.

    Raises:
        FileNotFoundError: if there is no such path.
        ValueError: if the volume cannot be read or has several channels.
    """
    exact: Any = read_scan(path)
    if len(exact) != 1:
        raise ValueError(f"{path} has {len(exact)} channels: one is expected.")
    volume: MetaTensor = exact.float()
    return volume


def read_label(path: Path, image: MetaTensor | None = None) -> MetaTensor:
    """Read a label, shape 1HWD, the file's integers, on the grid of its image if there is one; see `LoadLabeld`."""
    return reading.read_label(path, open_volume(path).grid if image is None else _grid(image))


def match_grid(image: MetaTensor, label: MetaTensor) -> MetaTensor:
    """Check that image and label sample the same points of the world, voxel by voxel.

    Args:
        image: shape 1HWD.
        label: shape 1HWD.

    Returns:
        The label with the image's affine: headers that agree up to rounding must not lead to two grids later.

    Raises:
        ValueError: if the shapes differ, or a corner lies more than ``GRID_TOLERANCE`` voxels apart.
    """
    difference = _grid(image).difference(_grid(label))
    if difference:
        raise ValueError(f"image and label do not lie on one grid: {difference}. Mend the wrong header.")
    return MetaTensor(label.as_tensor(), affine=image.affine)


def _grid(volume: MetaTensor) -> Grid:
    height, width, depth = volume.shape[1:]
    return Grid((height, width, depth), np.asarray(volume.affine, dtype=float))


def require_values(label: torch.Tensor, allowed: Sequence[int]) -> None:
    """Check a label before it is cast, so that no value wraps around or is truncated.

    Args:
        label: any shape, any dtype.
        allowed: the declared values, 0 (background) among them.

    Raises:
        ValueError: if another value occurs, or the label holds nothing but 0.
    """
    found = torch.unique(label[label != 0]).tolist()  # sorting the background too would take seconds
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise ValueError(f"label has the values {unknown[:10]}, but only {sorted(allowed)} are declared.")
    if not found:
        raise ValueError("label is empty (0 everywhere): replace it, or remove it to use the case as unlabelled.")


def crop_box(label: torch.Tensor, margin: Sequence[int], min_size: Sequence[int]) -> tuple[slice, ...]:
    """Give the box around the foreground, grown to a least size, plus a margin, clamped to the scan.

    Args:
        label: shape 1HWD, foreground positive.
        margin: voxels added at both ends of each axis; an axis as large as the scan stays whole.
        min_size: the box is first grown to this many voxels, half at each end (an odd one at the far end).

    Returns:
        One slice for each spatial axis. A box at the border of the scan is cut there, hence smaller than asked.

    Raises:
        ValueError: if there is no foreground.
    """
    starts, stops = generate_spatial_bounding_box(label)
    if not any(stops):
        raise ValueError("label is empty: there is nothing to crop around.")
    box = []
    for start, stop, pad, least, size in zip(starts, stops, margin, min_size, label.shape[1:], strict=True):
        missing = max(least - (stop - start), 0)
        first, last = start - missing // 2 - pad, stop + missing - missing // 2 + pad
        box.append(slice(max(first, 0), min(last, size)))
    return tuple(box)


def crop(volume: MetaTensor, box: tuple[slice, ...]) -> MetaTensor:
    """Cut a box out of a volume of shape CHWD; the affine moves along, so every voxel keeps its place in the world."""
    return apply(volume, SpatialCrop(roi_slices=box))


def apply(volume: MetaTensor, *transforms: Callable[[MetaTensor], Any]) -> MetaTensor:
    """Apply MONAI's array transforms in turn; their annotations do not say that a MetaTensor stays one."""
    for transform in transforms:
        volume = transform(volume)
    return volume
