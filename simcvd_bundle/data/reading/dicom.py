"""A DICOM series as one volume: its slices have to lie on one grid, and each counts with its own scaling."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from pydicom.dataset import Dataset

from simcvd_bundle.data.reading.dicom_files import Frame, frames_of, is_dicom, read_header
from simcvd_bundle.data.reading.dicom_grid import arrange

logger = logging.getLogger(__name__)

Headers = dict[Path, Dataset]

PIXEL_TYPES: dict[int, tuple[Any, Any]] = {
    itk.CommonEnums.IOComponent_UCHAR: (itk.UC, np.uint8),
    itk.CommonEnums.IOComponent_CHAR: (itk.SS, np.int8),  # ITK's wheels have no images of it
    itk.CommonEnums.IOComponent_USHORT: (itk.US, np.uint16),
    itk.CommonEnums.IOComponent_SHORT: (itk.SS, np.int16),
    itk.CommonEnums.IOComponent_UINT: (itk.UI, np.uint32),
    itk.CommonEnums.IOComponent_INT: (itk.SI, np.int32),
    itk.CommonEnums.IOComponent_FLOAT: (itk.F, np.float32),
    itk.CommonEnums.IOComponent_DOUBLE: (itk.D, np.float64),
}
"""Types of pixels after scaling, as GDCM chooses them for each file: those of ITK's image and of the array."""


def is_dicom_folder(folder: Path) -> bool:
    """Whether a folder holds a DICOM image, whatever its files are called; looks no further than the first one.

    An image that is cut off counts, so that its folder is read and the error named.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_dicom(path):
            try:
                if read_header(path) is not None:
                    return True
            except ValueError:
                return True
    return False


class DicomSeries:
    """The one series in a folder: single slices or multi-frame files, in the order of their places along the normal.

    The axes of the array are columns, rows and slices. Files that hold no image are passed over, as are localizers
    beside other images. All headers are checked here, pixels are decoded by ITK when they are asked for.

    Args:
        folder: with all files of the series, without subfolders.

    Attributes:
        path: the folder.
        grid: where the voxels lie; a constant shift of the slices (gantry tilt) is the shear of its affine.
        channels: one.
        value_names: none.
        frames: the slices in order.

    Raises:
        ValueError: when there is no image, or several series, when a file is damaged, or when the slices are no
            regular grid of scalars; names folder, files, places and remedy.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.channels = 1
        self.value_names: Mapping[int, str] = {}
        headers = _only_series(folder, _without_localizers(folder, _images(folder)))
        rows, columns = _common_shape(folder, headers)
        frames = [frame for path, header in headers.items() for frame in frames_of(path, header)]
        self.frames, self.grid = arrange(folder, frames, columns, rows)

    def voxels(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Exact values of some slices: what is stored, times the slope, plus the intercept of each slice.

        Args:
            first: slice to begin with.
            last: slice to end before; all by default.

        Returns:
            ``(columns, rows, slices, 1)``, of the smallest type of GDCM that holds the values of all these slices;
            float32 instead of float64 where that is exact.

        Raises:
            ValueError: when a file cannot be decoded; names it.
        """
        frames = self.frames[first:last]
        columns, rows, _ = self.grid.shape
        result = _empty((len(frames), rows, columns), np.dtype(np.uint8))
        for index, pixels in enumerate(_pixels(frames)):
            if pixels.shape != (rows, columns):
                raise ValueError(f"{frames[index].path} is decoded to {pixels.shape}, not {(rows, columns)} pixels.")
            if index == 0:
                result = _empty(result.shape, pixels.dtype)
            elif not np.can_cast(pixels.dtype, result.dtype):
                result = result.astype(np.result_type(result, pixels))
            result[index] = pixels
        if result.dtype == np.float64:
            single = result.astype(np.float32)
            result = single if np.array_equal(single, result) else result
        return result.T[..., None]


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array in torch's memory: numpy asks for huge pages, for which a fragmented machine stalls up to a second."""
    array: np.ndarray = torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()
    return array


def _images(folder: Path) -> Headers:
    """Headers of all files that hold images."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    headers = {path: read_header(path) for path in paths if is_dicom(path)}
    images = {path: header for path, header in headers.items() if header is not None}
    others = [path.name for path in paths if path not in images]
    if not images:
        raise ValueError(f"{folder} holds no DICOM image among its {len(paths)} files: name the folder of the slices.")
    if others:
        logger.info("%s: passed over %d files that hold no DICOM image, such as %s", folder, len(others), others[0])
    return images


def _without_localizers(folder: Path, headers: Headers) -> Headers:
    slices = {path: header for path, header in headers.items() if "LOCALIZER" not in (header.get("ImageType") or ())}
    if not slices or len(slices) == len(headers):
        return headers
    left_out = [path.name for path in headers if path not in slices]
    logger.info("%s: left out %d localizers, such as %s", folder, len(left_out), left_out[0])
    return slices


def _only_series(folder: Path, headers: Headers) -> Headers:
    series: dict[str, Headers] = defaultdict(dict)
    for path, header in headers.items():
        series[str(header.get("SeriesInstanceUID"))][path] = header
    if len(series) == 1:
        return headers
    parts = []
    for members in series.values():
        path, header = next(iter(members.items()))
        number, text = header.get("SeriesNumber"), header.get("SeriesDescription") or "without description"
        parts.append(f"number {number} ({text}) of {len(members)} files such as {path.name}")
    raise ValueError(f"{folder} holds {len(series)} series: {'; '.join(parts)}. Put each into a folder of its own.")


def _common_shape(folder: Path, headers: Headers) -> tuple[int, int]:
    """Rows and columns of all files."""
    shapes: dict[tuple[int, int], Path] = {}
    for path, header in headers.items():
        shapes.setdefault((header.Rows, header.Columns), path)
        colour = header.get("PhotometricInterpretation") or "no PhotometricInterpretation"
        if header.SamplesPerPixel != 1 or not colour.startswith("MONOCHROME"):
            raise ValueError(
                f"{path} holds {header.SamplesPerPixel} values a pixel ({colour}), no scalar intensities: convert it "
                "to grey values, or remove it if it is no slice."
            )
        if "MOSAIC" in (header.get("ImageType") or ()):
            raise ValueError(f"{path} is a mosaic of slices in one picture: convert the series to NIfTI first.")
    if len(shapes) > 1:
        found = ", ".join(f"{rows} x {columns} ({path.name})" for (rows, columns), path in shapes.items())
        raise ValueError(f"{folder} holds slices of different rows x columns: {found}. Put each into an own folder.")
    return next(iter(shapes))


def _pixels(frames: Sequence[Frame]) -> Iterator[np.ndarray]:
    """Values of each frame, ``(rows, columns)``; neighbours in one file are decoded together."""
    io, component = itk.GDCMImageIO.New(), itk.CommonEnums.IOComponent_SHORT
    for path, neighbours in groupby(frames, key=lambda frame: frame.path):
        try:
            values = _decode(path, io, component)
            component = io.GetComponentType()
        except (KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"the pixels of {path} cannot be decoded ({reason}): fetch the file again.") from error
        for frame in neighbours:
            yield _scaled(values[frame.index], frame, io.GetRescaleSlope(), io.GetRescaleIntercept())


def _decode(path: Path, io: Any, component: int) -> np.ndarray:
    """``(frames, rows, columns)``, scaled by GDCM; ``component`` is a guess of the type that GDCM chooses."""
    pixel, dtype = PIXEL_TYPES[component]
    reader = itk.ImageFileReader[itk.Image[pixel, 3]].New(FileName=str(path), ImageIO=io)
    reader.UpdateOutputInformation()
    if io.GetComponentType() != component:
        return _decode(path, io, io.GetComponentType())
    reader.Update()
    values: np.ndarray = itk.array_view_from_image(reader.GetOutput()).astype(dtype, copy=False)
    return values


def _scaled(values: np.ndarray, frame: Frame, slope: float, intercept: float) -> np.ndarray:
    """Values scaled by the frame's own numbers: GDCM knows but one slope for a file, and inverts MONOCHROME1."""
    if (slope, intercept) == (frame.slope, frame.intercept) and frame.inverted_from is None:
        return values
    stored = np.rint((values.astype(np.float64) - intercept) / slope)
    if frame.inverted_from is not None:
        stored = frame.inverted_from - stored
    return stored * frame.slope + frame.intercept
