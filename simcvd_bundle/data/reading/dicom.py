"""Stub until the reader of series is merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from simcvd_bundle.data.reading.grid import Grid


class DicomSeries:
    """Stub."""

    grid: Grid
    channels: int
    value_names: Mapping[int, str]

    def __init__(self, path: Path) -> None:
        self.path = path
        raise NotImplementedError

    def voxels(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Stub."""
        raise NotImplementedError
