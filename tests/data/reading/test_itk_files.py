"""NRRD and MetaImage: every pixel type, every space, and what is no scan."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from simcvd_bundle.data.reading import open_volume, read_scan

NRRD_TYPES = {"float32": "float", "float64": "double"}
SHAPE = (4, 3, 5)
DIRECTIONS = "(0.9,0.1,0) (-0.1,0.9,0) (0,0,2)"
AFFINE = np.array([[0.9, -0.1, 0, 5], [0.1, 0.9, 0, -7], [0, 0, 2, 11], [0, 0, 0, 1.0]])
"""Of ``DIRECTIONS`` and the origin (5, -7, 11), in the axes of the file's space."""

PLACE = ("space: left-posterior-superior", "space origin: (5,-7,11)")


def write_nrrd(path: Path, array: np.ndarray, kinds: str = "domain domain domain", directions: str = DIRECTIONS,
               fields: Sequence[str] = PLACE) -> Path:  # fmt: skip
    header = [
        "NRRD0005", f"type: {NRRD_TYPES.get(array.dtype.name, array.dtype.name)}", f"dimension: {array.ndim}",
        f"sizes: {' '.join(map(str, array.shape))}", "endian: little", "encoding: gzip", f"kinds: {kinds}",
        *fields[:1], *([f"space directions: {directions}"] if directions else []), *fields[1:],
    ]  # fmt: skip
    path.write_bytes("\n".join(header).encode() + b"\n\n" + gzip.compress(array.tobytes("F")))
    return path


def write_mha(path: Path, array: np.ndarray, element: str, *fields: str) -> Path:
    header = [
        "ObjectType = Image", f"NDims = {array.ndim}", "BinaryData = True", "BinaryDataByteOrderMSB = False", *fields,
        f"DimSize = {' '.join(map(str, array.shape))}", f"ElementType = {element}", "ElementDataFile = LOCAL",
    ]  # fmt: skip
    path.write_bytes("\n".join(header).encode() + b"\n" + array.tobytes("F"))
    return path


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32",
                                   "float64"])  # fmt: skip
def test_values_of_every_type_are_exact(tmp_path: Path, dtype: str) -> None:
    array = np.arange(60).reshape(SHAPE).astype(dtype)
    limits = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    array[0, 0, :2] = limits.min, 2**63 - 1 if dtype == "uint64" else limits.max
    element = {
        "int8": "MET_CHAR", "uint8": "MET_UCHAR", "int16": "MET_SHORT", "uint16": "MET_USHORT", "int32": "MET_INT",
        "uint32": "MET_UINT", "int64": "MET_LONG_LONG", "uint64": "MET_ULONG_LONG", "float32": "MET_FLOAT",
        "float64": "MET_DOUBLE",
    }[dtype]  # fmt: skip
    for path in (write_nrrd(tmp_path / "a.nrrd", array), write_mha(tmp_path / "a.nii.mha", array, element)):
        volume = open_volume(path)
        assert volume.voxels()[..., 0].tolist() == array.tolist()
        assert volume.voxels(1, 3)[..., 0].tolist() == array[:, :, 1:3].tolist()
        assert read_scan(path).numpy()[0].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
@pytest.mark.parametrize("pynrrd", [False, True])
def test_spaces(
    tmp_path: Path, space: str, signs: tuple[int, ...], pynrrd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To RAS; whatever else is installed or set."""
    if pynrrd and importlib.util.find_spec("nrrd") is None:  # its presence made MONAI choose another reader
        monkeypatch.setitem(sys.modules, "nrrd", ModuleType("nrrd"))
    monkeypatch.setenv("MONAI_DICOM_READER", "pydicom")
    fields = (f"space: {space}", "space origin: (5,-7,11)")
    scan = read_scan(write_nrrd(tmp_path / "a.nrrd", np.zeros(SHAPE, np.float32), fields=fields))
    np.testing.assert_allclose(scan.affine, np.diag([*signs, 1]) @ AFFINE, atol=1e-12)


@pytest.mark.parametrize(
    ("directions", "fields", "expected"),
    [
        ("", ("spacings: 0.9 0.9 2",), np.diag([-0.9, -0.9, 2.0, 1.0])),
        ("", (), np.diag([-1.0, -1.0, 1.0, 1.0])),
        ("(1,0,0) (0.3,1,0) (0,0,2)", ("space: RAS", "space origin: (0,0,0)"),
         [[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]),  # a shear stays
    ],
)  # fmt: skip
def test_incomplete_and_sheared_spaces(
    tmp_path: Path, directions: str, fields: tuple[str, ...], expected: np.ndarray
) -> None:
    path = write_nrrd(tmp_path / "a.nrrd", np.zeros(SHAPE, np.float32), directions=directions, fields=fields)
    np.testing.assert_allclose(open_volume(path).grid.affine, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "float64"])
def test_components_and_a_fourth_axis_are_channels(tmp_path: Path, dtype: str) -> None:
    array = np.arange(120).reshape(2, *SHAPE).astype(dtype)
    vector = write_nrrd(tmp_path / "a.nrrd", array, "vector domain domain domain", f"none {DIRECTIONS}")
    listed = write_nrrd(
        tmp_path / "b.nrrd", np.moveaxis(array, 0, -1).copy(), "domain domain domain list", f"{DIRECTIONS} none"
    )
    element = {"int8": "MET_CHAR", "uint16": "MET_USHORT", "int32": "MET_INT", "float64": "MET_DOUBLE"}[dtype]
    fourth = write_mha(tmp_path / "c.mha", np.moveaxis(array, 0, -1).copy(), element, "ElementSpacing = 1 1 2 1")
    interleaved = write_mha(tmp_path / "d.mha", array, element, "ElementNumberOfChannels = 2")
    text = interleaved.read_bytes().replace(b"NDims = 4", b"NDims = 3").replace(b"= 2 4 3 5", b"= 4 3 5")
    interleaved.write_bytes(text)
    for path in (vector, listed, fourth, interleaved):
        volume = open_volume(path)
        assert (volume.grid.shape, volume.channels) == (SHAPE, 2)
        np.testing.assert_array_equal(read_scan(path).numpy(), array)


@pytest.mark.parametrize(
    ("kinds", "components", "message"),
    [
        ("RGB-color domain domain domain", 3, "holds rgb voxels"),
        ("complex domain domain domain", 2, "holds complex voxels"),
        ("3D-symmetric-matrix domain domain domain", 6, "holds (symmetric|diffusion)"),
    ],
)
def test_what_holds_no_scalars_is_refused(tmp_path: Path, kinds: str, components: int, message: str) -> None:
    path = write_nrrd(
        tmp_path / "a.nrrd", np.zeros((components, *SHAPE), np.float32), kinds, f"none {DIRECTIONS}"
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"a.nrrd {message}"):
        open_volume(path)


def test_names_of_segments(tmp_path: Path) -> None:
    fields = (
        "space: LPS", "space origin: (0,0,0)", "Segment0_LabelValue:=2", "Segment0_Name:=tumour",
        "Segment1_LabelValue:=1", "Segment1_Name:=liver", "Segment2_Name:=without a value",
    )  # fmt: skip
    path = write_nrrd(tmp_path / "a.seg.nrrd", np.zeros(SHAPE, np.uint8), fields=fields)
    assert open_volume(path).value_names == {1: "liver", 2: "tumour"}


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
@pytest.mark.parametrize("content", [b"", b"no header", b"NRRD0005\n\n", b"NDims = 3\n"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} cannot be read|{name} has the shape"):
        open_volume(tmp_path / name).voxels()


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    for path in (
        write_nrrd(tmp_path / "a.nrrd", np.random.default_rng(0).normal(size=SHAPE)),
        write_mha(tmp_path / "a.mha", np.zeros(SHAPE, np.float64), "MET_DOUBLE"),
    ):
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
            open_volume(path).voxels()
