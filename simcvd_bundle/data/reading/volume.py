"""What every reader gives: a volume with a checked header, whose voxels are read when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from simcvd_bundle.data.reading.grid import Grid


class Volume(Protocol):
    """One file, or one folder of DICOM files.

    Attributes:
        path: the file or folder.
        grid: where its voxels lie.
        channels: values of a voxel.
        value_names: name of each value of a label, where the file knows them.
    """

    path: Path
    grid: Grid
    channels: int
    value_names: Mapping[int, str]

    def voxels(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Exact values of the slices ``first`` to ``last`` (all by default) of the third axis.

        Returns:
            ``(H, W, slices, channels)``, of the type that holds the file's values exactly.

        Raises:
            ValueError: when they cannot be read; names the file.
        """
        ...
