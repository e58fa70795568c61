"""What a scan is like: geometry from its header, intensities and label values from its voxels, in bounded memory."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np

from simcvd_bundle.data.cases import GRID_TOLERANCE
from simcvd_bundle.data.transforms import TOLERANCE

SAMPLES = 10_000
"""Voxels of a scan, and of its foreground, that stand for all."""
SLAB_VOXELS = 2**24
"""Voxels read at once from NIfTI files: 64 MiB as float32."""


@dataclass(frozen=True)
class Grid:
    """Geometry of one file, in the order of its axes.

    Attributes:
        shape: voxels along the three axes.
        affine: voxel to world, RAS, mm.
        channels: values a voxel, or volumes of a 4D file.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    channels: int = 1

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm."""
        return tuple(float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def axcodes(self) -> str:
        """Directions that the axes point to, such as ``RAS``."""
        return "".join(nib.aff2axcodes(self.affine))  # type: ignore[no-untyped-call]


@dataclass
class Intensities:
    """Sampled voxels of a scan (first channel) and, if labelled, of its foreground; counts of the label's values."""

    sample: np.ndarray
    foreground: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    values: Counter[int] = field(default_factory=Counter)


def is_nifti(path: Path) -> bool:
    """Whether nibabel reads it, otherwise ITK does, as in MONAI's ``LoadImage``."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_grid(path: Path) -> Grid:
    """Geometry of a file or DICOM folder, without reading its voxels.

    Raises:
        ValueError: when it cannot be read or has no three axes (a time series included, if it is no 4D file).
    """
    try:
        if is_nifti(path):
            image: Any = nib.load(path)
            shape, affine = image.shape, np.asarray(image.affine, dtype=float)
            channels = int(np.prod(shape[3:], dtype=int))
        else:
            reader = _itk_reader(path)
            reader.UpdateOutputInformation()
            header = reader.GetOutput()
            io = reader.GetImageIO()
            shape = tuple(int(n) for n in header.GetLargestPossibleRegion().GetSize())
            if not path.is_dir():
                shape = tuple(int(io.GetDimensions(axis)) for axis in range(io.GetNumberOfDimensions()))
            channels = int(io.GetNumberOfComponents()) * int(np.prod(shape[3:], dtype=int))
            affine = np.eye(4)
            spacing = [float(size) for size in header.GetSpacing()][:3]
            affine[:3, :3] = np.asarray(header.GetDirection(), dtype=float)[:3, :3] * spacing
            affine[:3, 3] = [float(place) for place in header.GetOrigin()][:3]
            affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's LPS to RAS
    except Exception as error:  # whatever nibabel or ITK raise
        reason = next(reversed(str(error).strip().splitlines()), repr(error))
        raise ValueError(f"{path} cannot be read: {reason}") from error
    if len(shape) < 3 or min(shape) < 1:
        raise ValueError(f"{path} has the shape {shape}: three axes are expected.")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path} has a singular affine {affine.tolist()}: repair its header.")
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine, channels)


def _itk_reader(path: Path) -> Any:
    if not path.is_dir():
        return itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=str(path))
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(path))
    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New(FileNames=names.GetFileNames(names.GetSeriesUIDs()[0]))
    reader.SetImageIO(itk.GDCMImageIO.New())
    return reader


def grid_difference(image: Grid, label: Grid) -> str:
    """Why two grids do not sample the same points of the world; empty when they do, up to a tenth of a voxel."""
    if image.shape != label.shape:
        return f"shape {image.shape} against {label.shape}"
    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in image.shape))])
    shift = np.linalg.norm(corners @ (image.affine - label.affine).T, axis=1).max()
    return f"corners up to {shift:.3g} mm apart" if shift > GRID_TOLERANCE * min(image.spacing) else ""


def read_intensities(image: Path, label: Path | None, seed: int = 0) -> Intensities:
    """Sample a scan; read the whole of its label, slab by slab.

    NIfTI files are read in slabs of ``SLAB_VOXELS``, of unlabelled scans 16 slices only; ITK reads a whole file at once
    in its own data type.

    Raises:
        ValueError: when a label holds other values than integers, or the sample NaN or infinity.
    """
    random = np.random.default_rng(seed)
    result = Intensities(np.zeros(0, np.float32))
    samples: list[np.ndarray] = []
    foreground: list[np.ndarray] = []
    scan = _voxels(image)
    mask = None if label is None else _voxels(label)
    for first, last in _slabs(scan.shape, label is None):
        values = _channel(scan, first, last)
        share = -(-SAMPLES * (last - first) // (16 if label is None else scan.shape[2]))
        samples.append(_draw(values.ravel(), share, random))
        if mask is not None:
            classes = _channel(mask, first, last)
            rounded = np.round(classes)
            if not (np.abs(classes - rounded) <= TOLERANCE).all():
                odd = classes[~(np.abs(classes - rounded) <= TOLERANCE)].ravel()[0]
                raise ValueError(
                    f"The label {label} holds {odd:g}, which is no integer: a mask is expected. Threshold "
                    "probabilities, or name the file so that it is not taken for a label (--labels PATTERN)."
                )
            found, counts = np.unique(rounded.astype(np.int64), return_counts=True)
            result.values.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            foreground.append(_draw(values[rounded != 0], SAMPLES, random))
    result.sample = np.concatenate(samples)
    if not np.isfinite(result.sample).all():
        raise ValueError(f"{image} holds NaN or infinite voxels: replace them.")
    if foreground:
        result.foreground = _draw(np.concatenate(foreground), SAMPLES, random)
    return result


def _voxels(path: Path) -> Any:
    """Array-like HWD(C); of NIfTI only what is indexed is read."""
    if is_nifti(path):
        image: Any = nib.load(path, keep_file_open=True)  # else each slab of a .gz would start from its beginning
        return image.dataobj
    reader = itk.imread(str(path)) if not path.is_dir() else None
    if reader is None:
        series = _itk_reader(path)
        series.Update()
        reader = series.GetOutput()
    array = itk.array_view_from_image(reader, keep_axes=True, update=False).copy()
    components = reader.GetNumberOfComponentsPerPixel()
    return array if components == 1 else np.moveaxis(array, 0, -1)


def _slabs(shape: tuple[int, ...], sparse: bool) -> Iterator[tuple[int, int]]:
    if sparse:
        yield from ((z, z + 1) for z in sorted(set(np.linspace(0, shape[2] - 1, 16).round().astype(int).tolist())))
        return
    depth = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    yield from ((z, min(z + depth, shape[2])) for z in range(0, shape[2], depth))


def _channel(array: Any, first: int, last: int) -> np.ndarray:
    """The first channel of some slices, float32."""
    slab = np.asarray(array[:, :, first:last], dtype=np.float32)
    return slab.reshape(*slab.shape[:3], -1)[..., 0]


def _draw(values: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    return values if len(values) <= number else values[random.integers(0, len(values), number)]
