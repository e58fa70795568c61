"""From files to tensors: MONAI's ``LoadImaged`` for scans and labels, by our readers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImaged

from simcvd_bundle.data.reading.dicom import DicomSeries
from simcvd_bundle.data.reading.grid import Grid
from simcvd_bundle.data.reading.itk_files import ItkFile
from simcvd_bundle.data.reading.nifti import NiftiFile, is_nifti
from simcvd_bundle.data.reading.volume import Volume

File = str | Path

COMPUTABLE = {"u2": "i4", "u4": "i8", "u8": "i8", "f2": "f4", "f16": "f8"}
"""Types that hold the values of those that torch does not compute with; of float128 all but its last digits."""


def open_volume(path: File) -> Volume:
    """Read the header of a scan or label.

    Args:
        path: a NIfTI, NRRD or MetaImage file, or a folder of the files of one DICOM series.

    Raises:
        FileNotFoundError: when there is nothing.
        ValueError: when it is no scan, or one that cannot be read without doubt (docs/reading.md).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.is_dir():
        return DicomSeries(path)
    return NiftiFile(path) if is_nifti(path) else ItkFile(path)


def open_channels(files: File | Sequence[File]) -> list[Volume]:
    """Read the headers of the files of one scan, which must share their grid.

    Raises:
        ValueError: when they do not; as `open_volume`.
    """
    volumes = [open_volume(file) for file in ([files] if isinstance(files, str | Path) else files)]
    for volume in volumes[1:]:
        difference = volumes[0].grid.difference(volume.grid)
        if difference:
            raise ValueError(f"{volume.path} does not lie on the grid of {volumes[0].path}: {difference}.")
    return volumes


def read_scan(files: File | Sequence[File]) -> MetaTensor:
    """Read the exact values of a scan or label.

    Args:
        files: a file, a folder of DICOM files, or one of them a channel.

    Returns:
        ``(channels, H, W, D)``, of a type that torch computes with, and MONAI's entries of ``meta``.

    Raises:
        FileNotFoundError: when a file does not exist.
        ValueError: when it cannot be read.
    """
    volumes = open_channels(files)
    array = np.concatenate([np.moveaxis(volume.voxels(), -1, 0) for volume in volumes])
    return placed(array, volumes[0].grid, volumes[0].path)


def placed(array: np.ndarray, grid: Grid, path: Path) -> MetaTensor:
    """An array ``(channels, H, W, D)`` on a grid, with MONAI's entries of ``meta``; see `as_tensor`."""
    meta = {
        "filename_or_obj": str(path), "spatial_shape": np.array(grid.shape),
        "original_affine": grid.affine.copy(), "space": "RAS",
        "original_channel_dim": float("nan") if len(array) == 1 else -1,  # of the file, in MONAI's form
    }  # fmt: skip
    return MetaTensor(as_tensor(array), affine=torch.as_tensor(grid.affine), meta=meta)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of an array of real numbers, whatever its strides and byte order, of a type that torch computes with.

    Raises:
        ValueError: when unsigned integers of 64 bits exceed the signed ones.
    """
    kind = array.dtype.str[1:]
    if kind == "u8" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError("values above 9223372036854775807 cannot be kept: store smaller ones.")
    return torch.from_numpy(np.array(array, dtype=COMPUTABLE.get(kind, kind), order="C"))


class LoadScand(LoadImaged):
    """Scans by our readers, float32, channels first.

    Not MONAI's own: its readers are chosen by what is installed and by the environment, read a part of some DICOM
    series, and drop the sform of some NIfTI headers. A ``LoadImaged`` nevertheless, which MONAI Label looks for
    and sets up (``_loader``).

    Args:
        keys: keys of images: a file, a folder of DICOM files, or one of them a channel.
        allow_missing_keys: leave an item without such a key as it is.
    """

    def __init__(self, keys: KeysCollection = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Return ``data`` with the files read, see `read_scan`."""
        return {**data, **{key: self.read(data, key) for key in self.key_iterator(dict(data))}}

    def read(self, data: Mapping[Hashable, Any], key: Hashable) -> MetaTensor:
        """The scan of one key."""
        exact: Any = read_scan(data[key])
        scan: MetaTensor = exact.float()
        return scan
