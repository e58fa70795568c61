"""NRRD and MetaImage files by ITK."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import itk
import numpy as np

from simcvd_bundle.data.reading.grid import Grid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SCALARS = {
    "char": itk.SS, "unsigned_char": itk.UC, "short": itk.SS, "unsigned_short": itk.US, "int": itk.SI,
    "unsigned_int": itk.UI, "long": itk.ULL, "unsigned_long": itk.ULL, "long_long": itk.ULL,
    "unsigned_long_long": itk.ULL, "float": itk.F, "double": itk.D,
}  # fmt: skip
"""ITK's Python type that holds a component exactly; a negative 64-bit integer wraps, and is viewed back."""
VECTORS = SCALARS | dict.fromkeys(("int", "unsigned_int"), itk.D)
"""The same for several components a voxel, of which ITK's Python has fewer types; there are none of 64 bits."""
KINDS = ("scalar", "vector", "variable_length_vector", "covariant_vector")
"""Pixels whose components are intensities: not colours, complex numbers, tensors, points, ..."""


class ItkFile:
    """A NRRD or MetaImage file, see `Volume`; components of a voxel and an axis beyond the third are channels.

    Args:
        path: the file.

    Raises:
        ValueError: when ITK cannot read it, or it holds no scalars or no 3D volume.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
            io.SetFileName(str(path))
            io.ReadImageInformation()
        except Exception as error:  # no reader (None), or whatever a damaged header raises
            raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
        axes = range(io.GetNumberOfDimensions())
        shape = tuple(int(io.GetDimensions(axis)) for axis in axes)
        if len(shape) not in (3, 4) or min(shape) < 1:
            raise ValueError(f"{path} has the shape {shape}: three axes are expected, at most one more of channels.")
        components = int(io.GetNumberOfComponents())
        kind = io.GetPixelTypeAsString(io.GetPixelType())
        if kind not in KINDS or (components > 1 and len(shape) == 4):
            raise ValueError(
                f"{path} holds {kind} voxels of {components} components, not one number a voxel and channel: convert "
                "it to intensities or class indices."
            )
        self.component = io.GetComponentTypeAsString(io.GetComponentType())
        if (self.component if components == 1 else VECTORS.get(self.component, itk.ULL)) in (itk.ULL, "ldouble"):
            raise ValueError(f"{path} has {components} components of the type {self.component}: store doubles instead.")
        affine = np.eye(4)
        affine[:3, :3] = np.array([io.GetDirection(axis)[:3] for axis in range(3)]).T
        affine[:3, :3] *= [io.GetSpacing(axis) for axis in range(3)]
        affine[:3, 3] = [io.GetOrigin(axis) for axis in range(3)]
        try:
            self.grid = Grid((shape[0], shape[1], shape[2]), LPS_TO_RAS @ affine)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.components = components
        self.axes = len(shape)
        self.channels = components * (shape[3] if len(shape) == 4 else 1)
        self.value_names: Mapping[int, str] = _segment_names(io.GetMetaDataDictionary(), path)

    def voxels(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Values of some slices, see `Volume`; ITK reads the whole file."""
        kind = itk.Image if self.components == 1 else itk.VectorImage
        types = SCALARS if self.components == 1 else VECTORS
        try:
            reader = itk.ImageFileReader[kind[types[self.component], self.axes]].New(FileName=str(self.path))
            reader.Update()
            array = np.array(itk.array_view_from_image(reader.GetOutput()))  # axes reversed, components last
        except Exception as error:  # whatever a damaged file raises
            raise ValueError(f"{self.path} cannot be read: {_reason(error)}") from error
        if self.component in ("long", "long_long"):
            array = array.view(np.int64)
        array = array.T if self.components == 1 else array.transpose(2, 1, 0, 3)
        return array.reshape(*self.grid.shape, self.channels)[:, :, first:last]


def _reason(error: Exception) -> str:
    """The last line of ITK's messages, which says what is wrong."""
    if isinstance(error, AttributeError):
        return "its content is of another format."
    return next(reversed(str(error).strip().splitlines()), repr(error))


def _segment_names(dictionary: Any, path: Path) -> dict[int, str]:
    """Names of label values in a segmentation of 3D Slicer (``.seg.nrrd``)."""
    keys = set(dictionary.GetKeys())
    names: dict[int, str] = {}
    for key in sorted(keys):
        number = key.removesuffix("_LabelValue")
        if key.startswith("Segment") and key != number and f"{number}_Name" in keys:
            text, name = str(dictionary[key]), str(dictionary[f"{number}_Name"])
            if not re.fullmatch(r"\s*-?\d+\s*", text):
                raise ValueError(f"{path} says that {key} is {text!r}: an integer is expected.")
            if names.setdefault(int(text), name) != name:
                raise ValueError(
                    f"{path} has two segments of the value {int(text)}, {names[int(text)]!r} and {name!r}, as they "
                    "overlap or lie in different layers: in 3D Slicer export a label map in which each has its own."
                )
    return names
