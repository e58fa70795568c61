"""NIfTI files: which of the forms of a header places the voxels, and exact values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from simcvd_bundle.data.reading.grid import Grid

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
"""Length of the header's unit."""
ROUNDING = 0.01
"""Relative difference up to which voxel sizes of a header agree."""


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


class NiftiFile:
    """A NIfTI file, see `Volume`; axes beyond the third are channels.

    Args:
        path: the file.

    Raises:
        ValueError: when it is no NIfTI file, holds no scalars or no 3D volume, or its header is contradictory.
    """

    value_names: Mapping[int, str] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            image: Any = nib.load(path, keep_file_open=True)  # else each slab of a .gz starts at its beginning
            header = image.header
            shape = tuple(int(size) for size in image.shape)
            affine = placement(header)
        except FileNotFoundError as error:  # nibabel looks for the suffix in small letters
            raise ValueError(f"{path} cannot be read: end its name with .nii or .nii.gz in small letters.") from error
        except Exception as error:  # whatever nibabel raises
            raise ValueError(f"{path} cannot be read: {error}") from error
        dtype = header.get_data_dtype()
        if dtype.kind not in "iufb":
            what = "colours" if dtype.names else "complex numbers"
            raise ValueError(f"{path} holds {what}, not one number a voxel: convert it to intensities or classes.")
        if len(shape) < 3 or min(shape) < 1 or sum(size > 1 for size in shape[3:]) > 1:
            raise ValueError(f"{path} has the shape {shape}: three axes are expected, at most one more of channels.")
        try:
            self.grid = Grid((shape[0], shape[1], shape[2]), affine)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.image = image
        self.channels = int(np.prod(shape[3:], dtype=int))

    def voxels(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Values of some slices, see `Volume`: of the file's type, float64 where the header scales them."""
        try:
            slab: np.ndarray = np.asanyarray(self.image.dataobj[:, :, first:last])
        except Exception as error:  # whatever a damaged file raises
            raise ValueError(f"{self.path} cannot be read: {error}") from error
        return slab.reshape(*slab.shape[:3], self.channels, order="F")


def placement(header: Any) -> np.ndarray:
    """Voxel to world of a NIfTI header ``(4, 4)``, RAS, mm.

    The sform, where it is set, else the qform, else the voxel sizes around the centre, as nibabel does. ``pixdim``
    belongs to the qform. Where it and the sform disagree in the size of a voxel, the one whose sizes are all 1 was
    never filled in, and the other one counts; so does the qform beside an sform of zeros. A sheared sform agrees with
    the edges of a voxel or the distances of its planes.

    Args:
        header: nibabel's.

    Raises:
        ValueError: when the sizes of a voxel disagree and none is a placeholder.
    """
    sizes = np.abs(np.array(header["pixdim"][1:4], dtype=float))
    scale = MILLIMETRES[header.get_xyzt_units()[0]]
    scaling = np.diag([scale, scale, scale, 1.0])
    if header["sform_code"] == 0:
        return np.asarray(scaling @ header.get_best_affine(), dtype=float)
    sform = np.asarray(header.get_sform(), dtype=float)
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    if edges.all() and np.linalg.det(sform[:3, :3]) != 0:
        planes = 1 / np.linalg.norm(np.linalg.inv(sform[:3, :3]), axis=1)
        agree = np.minimum(np.abs(edges - sizes), np.abs(planes - sizes)) <= ROUNDING * edges
        if agree.all() or np.isin(sizes, (0, 1)).all():
            return np.asarray(scaling @ sform)
    if header["qform_code"] > 0 and (np.abs(edges - 1) <= ROUNDING).all() | (edges == 0).all():
        return np.asarray(scaling @ header.get_qform(), dtype=float)
    told, other = (" x ".join(f"{size:.4g}" for size in values) for values in (edges, sizes))
    raise ValueError(
        f"its sform has voxels of {told}, its pixdim and qform of {other}: the header contradicts itself. Find out "
        "which is right and copy it to the other one (nibabel's set_qform or set_sform, FSL's fslorient)."
    )


PLACEMENT = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x",
    "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip
"""Fields of a header that place the voxels, ``pixdim`` besides."""


def nifti_image(array: np.ndarray, affine: np.ndarray, scan: Path) -> Any:
    """A NIfTI image on the grid of a scan, with both forms, codes and units of its header if the scan is NIfTI too.

    Otherwise sform and qform are the affine, of scanner coordinates; a qform cannot shear, so then there is none.

    Args:
        array: ``(H, W, D)`` or ``(H, W, D, channels)``.
        affine: voxel to world ``(4, 4)``, RAS, mm.
        scan: file or folder of the scan.

    Returns:
        nibabel's image.
    """
    if is_nifti(scan) and scan.is_file():
        source: Any = nib.load(scan)
        if source.shape[:3] == array.shape[:3]:
            header = source.__class__(array, None, dtype=array.dtype).header
            for name in PLACEMENT:
                header[name] = source.header[name]
            header["pixdim"][:4] = source.header["pixdim"][:4]
            return source.__class__(array, None, header)
    image: Any = nib.Nifti1Image(array, affine, dtype=array.dtype)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    shape = (array.shape[0], array.shape[1], array.shape[2])
    if Grid(shape, affine).difference(Grid(shape, image.get_qform())):
        image.header["qform_code"] = 0
    return image
