"""DICOM files: which of them hold an image, where its frames lie, and whether all of its pixels are there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

PIXELS = 0x7FE00010
ITEM, END_OF_ITEMS = 0xFFFEE000, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
SUFFIXES = (".dcm", ".ima")

GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "NominalScannedPixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
"""What differs from frame to frame, and the functional group that holds it in multi-frame files."""
TAGS = [
    *GROUPS, "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "DetectorInformationSequence",
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ImageType",
    "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation",
    "PhotometricInterpretation",
]  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """One slice as its file describes it, in the patient's coordinates of DICOM (LPS, mm).

    Attributes:
        path: the file.
        index: number of the frame in it, from 0.
        name: for messages.
        position: centre of the first pixel.
        orientation: directions of growing columns and rows, ``(2, 3)``.
        spacing: distance of neighbouring columns and rows.
        slope: factor from stored to real values.
        intercept: what is added then.
        inverted_from: ITK gives this number minus the stored value (MONOCHROME1); None when it gives the value itself.
        uid: of the instance; a repeated file has the same.
        thickness: distance to the next slice as far as one alone can tell, else None.
    """

    path: Path
    index: int
    name: str
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    slope: float
    intercept: float
    inverted_from: int | None
    uid: str
    thickness: float | None

    @property
    def place(self) -> str:
        """File and position, for messages."""
        return f"{self.name} at ({', '.join(f'{place:g}' for place in self.position)}) mm"


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its magic word, or its suffix where old files lack that; no index, no hidden file."""
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR" or not path.is_file():
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(132)
    old = start[:2] in (b"\x02\x00", b"\x08\x00") and start[3:4] == b"\x00"  # begins with a tag, nothing before it
    return start[128:] == b"DICM" or old


def read_header(path: Path) -> Dataset | None:
    """Tags of an image; None when the file holds something else, such as a report, a plan or a segmentation.

    Raises:
        ValueError: when the file cannot be read or is cut off; names it.
    """
    try:
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=TAGS)
            kind = UID(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "")
            standard = kind.name != str(kind)
            if standard and "Image Storage" not in kind.name:
                return None
            syntax = header.file_meta.get("TransferSyntaxUID")
            if syntax is not None and syntax.is_deflated:  # only whoever inflates it knows where it ends
                return header
            complete = _pixels_end(file, header)
    except Exception as error:  # whatever pydicom raises on damaged bytes
        raise ValueError(f"{path} cannot be read as DICOM: {error or type(error).__name__}.") from error
    if complete is None and not standard and header.get("SeriesInstanceUID"):  # vendors' raw data and protocols
        return None
    if not complete or not header.get("Rows") or not header.get("Columns"):
        raise ValueError(f"{path} is cut off or no DICOM image: fetch it again, or remove it if it is no slice.")
    return header


def _pixels_end(file: BinaryIO, header: Dataset) -> bool | None:
    """Whether all bytes of the pixels are in the file, which stands before them; None when it ends well without any."""
    size = os.fstat(file.fileno()).st_size
    implicit, little = header.original_encoding
    order = "<" if little else ">"
    start = file.read(8 if implicit else 12)
    if not start:
        return None if file.tell() == size else False
    if len(start) < (8 if implicit else 12):
        return False
    group, element = struct.unpack_from(f"{order}HH", start)
    (length,) = struct.unpack_from(f"{order}I", start, len(start) - 4)
    if group << 16 | element != PIXELS:
        raise ValueError("its pixels are no integers")
    if length != UNDEFINED:
        frames = int(header.get("NumberOfFrames") or 1)
        bits = header.BitsAllocated * header.SamplesPerPixel * header.Rows * header.Columns * frames
        return bool(file.tell() + length <= size and 8 * length >= bits)
    while len(start := file.read(8)) == 8:  # compressed: items, one or more for each frame
        group, element, length = struct.unpack("<HHI", start)
        if group << 16 | element == END_OF_ITEMS:
            return True
        if group << 16 | element != ITEM or file.tell() + length > size:
            return False
        file.seek(length, os.SEEK_CUR)
    return False


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The slices of a file.

    Raises:
        ValueError: when it does not say where they lie; names it.
    """
    count = int(header.get("NumberOfFrames") or 1)
    groups: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or ()
    if groups and len(groups) != count:
        raise ValueError(f"{path} has {count} frames but describes {len(groups)}: its header is damaged.")
    common = [*header.get("SharedFunctionalGroupsSequence", ()), header, *header.get("DetectorInformationSequence", ())]
    frames = []
    for index in range(count):
        places = [*groups[index : index + 1], *common]
        orientation = _numbers(path, places, "ImageOrientationPatient", 6).reshape(2, 3)
        position = _numbers(path, places, "ImagePositionPatient", 3)
        if count > 1 and not groups:  # before functional groups: slices along the normal, a negative distance downwards
            (distance,) = _numbers(path, places, "SpacingBetweenSlices", 1)
            position = position + index * distance * np.cross(*orientation)
        nominal = _find(places, "PixelSpacing") is None and _find(places, "NominalScannedPixelSpacing") is not None
        spacing = "NominalScannedPixelSpacing" if nominal else "PixelSpacing"  # ITK writes series as secondary captures
        slope, intercept = _find(places, "RescaleSlope"), _find(places, "RescaleIntercept")
        thickness = _find(places, "SpacingBetweenSlices") or _find(places, "SliceThickness")
        frame = Frame(
            path=path,
            index=index,
            name=path.name if count == 1 else f"frame {index + 1} of {path.name}",
            position=position,
            orientation=orientation,
            spacing=_numbers(path, places, spacing, 2)[::-1],  # DICOM has that of rows first
            slope=1.0 if slope is None else float(slope),
            intercept=0.0 if intercept is None else float(intercept),
            inverted_from=_inverted_from(header),
            uid=str(header.get("SOPInstanceUID")),
            thickness=None if thickness is None else abs(float(thickness)),
        )
        if frame.slope == 0:
            raise ValueError(f"{frame.name} in {path.parent} has the rescale slope 0: mend its header.")
        if not (frame.spacing > 0).all():
            raise ValueError(f"{frame.name} in {path.parent} has the pixel spacing {frame.spacing}: mend its header.")
        frames.append(frame)
    return frames


def _inverted_from(header: Dataset) -> int | None:
    if header.get("PhotometricInterpretation") != "MONOCHROME1":
        return None
    return -1 if header.PixelRepresentation else 2**header.BitsStored - 1


def _find(places: Iterable[Dataset], name: str) -> Any:
    """The first value that is there and not empty; None without."""
    for place in places:
        for holder in (*place.get(GROUPS[name], ()), place):
            value = holder.get(name)
            if value is not None and value != "":
                return value
    return None


def _numbers(path: Path, places: Iterable[Dataset], name: str, count: int) -> np.ndarray:
    value = _find(places, name)
    numbers = np.atleast_1d(np.array([] if value is None else value, dtype=float))
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(
            f"{path} does not say where its voxels lie: {name} is {'missing' if value is None else value}. A picture "
            "that is no slice belongs outside the folder of the series; a scan has to be exported again."
        )
    return numbers
