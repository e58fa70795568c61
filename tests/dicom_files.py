"""DICOM files for tests: a volume and its affine, written as a scanner or an archive would."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

SERIES = "2.25.77"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def phantom(shape: tuple[int, int, int] = (12, 10, 8), dtype: type = np.int16) -> np.ndarray:
    """Two boxes without any symmetry, on a ramp of which no slice equals another; axes x, y, z."""
    volume = 20 * np.arange(shape[2]) * np.ones(shape)
    volume[1:4, 2:8, 1:3] = 200
    volume[5:10, 1:3, 4:6] = 300
    return volume.astype(dtype)


def affine_of(
    spacing: tuple[float, float, float] = (0.8, 1.2, 2.5),
    turn: np.ndarray | None = None,
    tilt: tuple[float, float] = (0, 0),
    origin: tuple[float, float, float] = (-31.5, 12.25, 7.0),
) -> np.ndarray:
    """Voxel to world (RAS, mm) of columns, rows, slices.

    Args:
        spacing: mm, of columns, rows and slices.
        turn: LPS directions of columns, rows and normal, the columns of a rotation.
        tilt: mm that a slice is shifted along columns and rows against the one before.
        origin: LPS, mm.
    """
    axes = np.eye(3) if turn is None else turn
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag(spacing)
    affine[:3, 2] += axes[:, 0] * tilt[0] + axes[:, 1] * tilt[1]
    affine[:3, 3] = origin
    return LPS @ affine


def geometry(affine: np.ndarray, z: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position of a slice, orientation and pixel spacing (rows, columns) as DICOM has them."""
    lps = LPS @ affine
    steps = np.linalg.norm(lps[:3, :2], axis=0)
    return lps[:3, 3] + z * lps[:3, 2], (lps[:3, :2] / steps).T.ravel(), steps[::-1]


def new_file(path: Path, sop_class: str = CTImageStorage, series: str = SERIES) -> FileDataset:
    """What all DICOM files have."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix="2.25.")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    file.PatientID = file.PatientName = "phantom"
    file.PatientBirthDate = file.PatientSex = file.AccessionNumber = file.ReferringPhysicianName = ""
    file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = "2.25.70", series, "2.25.71"
    file.StudyID, file.SeriesNumber, file.InstanceNumber, file.Modality = "1", 3, 1, "CT"
    file.StudyDate, file.StudyTime, file.SeriesDescription = "20200101", "120000", "thorax"
    file.Manufacturer, file.ImageType = "none", ["ORIGINAL", "PRIMARY", "AXIAL"]
    return file


def set_pixels(file: FileDataset, pixels: np.ndarray) -> None:
    """Pixels ``(rows, columns)`` or ``(frames, rows, columns)``, of 8, 16 or 32 bits."""
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * pixels.itemsize
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.add_new("PixelData", "OB" if bits == 8 else "OW", pixels.tobytes())


def save(file: FileDataset, tags: dict[str, Any], path: Path) -> Path:
    """Set further tags (None removes one) and write."""
    for name, value in tags.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def write_slice(
    path: Path,
    pixels: np.ndarray,
    number: int = 1,
    affine: np.ndarray | None = None,
    z: float = 0,
    series: str = SERIES,
    **tags: Any,
) -> Path:
    """One slice, ``pixels`` being ``(rows, columns)``, at ``z`` slices from the origin of ``affine``."""
    file = new_file(path, series=series)
    position, orientation, spacing = geometry(affine_of() if affine is None else affine, z)
    file.ImagePositionPatient = [f"{p:.10g}" for p in position]
    file.ImageOrientationPatient = [f"{c:.10f}" for c in orientation]
    file.PixelSpacing, file.SliceThickness, file.InstanceNumber = [f"{s:.10g}" for s in spacing], "2", number
    file.RescaleSlope, file.RescaleIntercept = 1, 0
    set_pixels(file, pixels)
    return save(file, tags, path)


def write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray | None = None,
    order: Iterable[int] | None = None,
    name: str = "{number:03d}.dcm",
    tags: Callable[[int], dict[str, Any]] = lambda z: {},
    **common: Any,
) -> Path:
    """One file a slice of ``volume`` (columns, rows, slices).

    Args:
        folder: where.
        volume: what.
        affine: RAS, mm.
        order: slices in the order of their file names and instance numbers; those left out are not written.
        name: of a file.
        tags: of a slice; ``z`` moves it.
        **common: tags of all slices.
    """
    for number, z in enumerate(range(volume.shape[2]) if order is None else order):
        further = {"z": z} | common | tags(z)
        write_slice(folder / name.format(number=number), volume[:, :, z].T, number + 1, affine, **further)
    return folder


def write_multi_frame(
    path: Path,
    volume: np.ndarray,
    affine: np.ndarray | None = None,
    order: Iterable[int] | None = None,
    slope: Callable[[int], float] | None = None,
    moved: Callable[[int], float] = float,
    **tags: Any,
) -> Path:
    """An enhanced MR: all slices in one file, each with its own functional groups.

    Args:
        path: the file.
        volume: ``(columns, rows, slices)``.
        affine: RAS, mm.
        order: slices in the order of the frames.
        slope: of a frame; without it one of 1 is shared.
        moved: place of a frame in slices.
        **tags: further ones.
    """
    file = new_file(path, EnhancedMRImageStorage)
    file.Modality = "MR"
    affine = affine_of() if affine is None else affine
    frames = list(range(volume.shape[2]) if order is None else order)
    file.NumberOfFrames = len(frames)
    _, orientation, spacing = geometry(affine, 0)
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [f"{s:.10g}" for s in spacing], "1"
    plane.ImageOrientationPatient = [f"{c:.10f}" for c in orientation]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    if slope is None:
        shared.PixelValueTransformationSequence = [_transformation(1)]
    file.SharedFunctionalGroupsSequence = [shared]
    file.PerFrameFunctionalGroupsSequence = []
    for z in frames:
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = [f"{p:.10g}" for p in geometry(affine, moved(z))[0]]
        group.PlanePositionSequence = [place]
        if slope is not None:
            group.PixelValueTransformationSequence = [_transformation(slope(z))]
        file.PerFrameFunctionalGroupsSequence.append(group)
    set_pixels(file, np.ascontiguousarray(volume[:, :, frames].T))
    return save(file, tags, path)


def _transformation(slope: float) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = slope, 0, "US"
    return item
