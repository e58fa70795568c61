"""Where the voxels of a volume lie in the world, and when two volumes share their voxels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import nibabel as nib
import numpy as np

GRID_TOLERANCE = 0.1
"""Largest distance, in voxels, between the corners of two grids that count as one grid."""
FLAT = 1e-6
"""Volume of a voxel, relative to that of a box with its edges, up to which it has no volume."""


@dataclass(frozen=True)
class Grid:
    """Geometry of one volume, in the order of the axes of its array.

    Attributes:
        shape: voxels along the three axes.
        affine: voxel to world ``(4, 4)``, float64, RAS, mm.

    Raises:
        ValueError: when the affine is not finite or maps a box to no volume.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        """Check the affine."""
        edges = np.linalg.norm(self.affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(self.affine[:3, :3]))  # relative: voxels may be micrometres
        if not (np.isfinite(self.affine).all() and edges.all() and volume > FLAT * edges.prod()):
            raise ValueError(
                f"the affine {self.affine.round(4).tolist()} is singular or not finite: mend the header's spacing and "
                "orientation."
            )

    @property
    def spacing(self) -> tuple[float, ...]:
        """Lengths of a voxel's edges in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def axcodes(self) -> str:
        """Directions that the axes point to, such as ``RAS``."""
        return "".join(nib.aff2axcodes(self.affine))  # type: ignore[no-untyped-call]

    def difference(self, other: Grid) -> str:
        """Why the other grid does not sample the same points of the world; empty when it does, up to rounding.

        Rounding is a shift of the corners by less than ``GRID_TOLERANCE`` voxels.
        """
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape}"
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in self.shape))])
        shift = np.linalg.norm(corners @ (self.affine - other.affine).T, axis=1).max()
        if shift <= GRID_TOLERANCE * min(self.spacing):
            return ""
        return (
            f"corners up to {shift:.3g} mm apart: affine {self.affine.round(4).tolist()} against "
            f"{other.affine.round(4).tolist()}"
        )
