"""What is found of a label once, when its case is cached: where its classes are, and in how many pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from monai.utils import convert_to_tensor
from scipy import ndimage
from torch import Tensor

MOST_POSITIONS = 4096
"""Voxels kept of a class: enough that their choice does not matter, 48 KiB a class."""
NEIGHBOURS = np.ones((3, 3, 3))
"""Voxels of a piece touch by faces, edges or corners."""
ONE_PIECE = 0.95
"""Share of a class's voxels in its largest piece from which it counts as one piece; the rest is the label's noise."""


def _classes(label: Tensor) -> np.ndarray:
    plain: Tensor = convert_to_tensor(label, track_meta=False)
    return plain[0].numpy().astype(np.uint8)


def class_positions(label: Tensor) -> dict[int, Tensor]:
    """Voxels of each class of a label.

    MONAI's ``RandCropByLabelClassesd`` searches the label for every sample, or keeps the indices of all voxels.

    Args:
        label: ``(1, H, W, D)``, class indices.

    Returns:
        By class ``(n, 3)``, int32, at most ``MOST_POSITIONS`` drawn at random; classes without a voxel are left out.
    """
    volume, random = _classes(label), np.random.default_rng(0)
    positions = {}
    for index in np.unique(volume[volume > 0]).tolist():
        voxels = np.flatnonzero(volume == index)
        chosen = random.choice(voxels, min(len(voxels), MOST_POSITIONS), replace=False)
        positions[index] = torch.from_numpy(np.stack(np.unravel_index(chosen, volume.shape), 1).astype(np.int32))
    return positions


def pieces_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of a mask, numbered from 1 where it is true, and the number of voxels of each."""
    pieces, _ = ndimage.label(mask, NEIGHBOURS)
    return pieces, np.bincount(pieces.ravel())[1:]


def largest_pieces(label: Tensor) -> dict[int, float]:
    """Share of the voxels of each class that its largest piece holds; classes without a voxel are left out.

    Args:
        label: ``(1, H, W, D)``, class indices.
    """
    volume = _classes(label)
    shares = {}
    for index, box in enumerate(ndimage.find_objects(volume), 1):
        if box is not None:
            _, sizes = pieces_of(volume[box] == index)
            shares[index] = float(sizes.max() / sizes.sum())
    return shares


def one_piece(labels: Sequence[Mapping[int, float]]) -> list[int]:
    """Classes that are one piece (``ONE_PIECE``) in every label that has them.

    Args:
        labels: of ``largest_pieces``, one a label.
    """
    several = {index for shares in labels for index, share in shares.items() if share < ONE_PIECE}
    return sorted(set().union(*labels) - several)


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
