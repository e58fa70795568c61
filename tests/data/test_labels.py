"""Labels as files hold them: exact integers on the grid of their image, or an error that names the label."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Spacingd

from simcvd_bundle.data.cases import CheckedDataset
from simcvd_bundle.data.reading import Grid, LoadLabeld, LoadScand, label_dtype, read_label
from simcvd_bundle.data.transforms import ClassIndices, ClassIndicesd, FileValuesd

SHAPE = (6, 5, 4)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
GRID = Grid(SHAPE, AFFINE)
IDS = (182305689, 182305693, 614454277)  # the first two are one float32
NRRD_TYPES = {"int32": "int", "uint32": "uint", "int64": "longlong", "uint64": "ulonglong"}


def bars(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    label = np.zeros(SHAPE, dtype)
    for number, value in enumerate(values, 1):
        label[number] = value
    return label


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def write_segmentation(path: Path, array: np.ndarray, segments: Sequence[tuple[Any, str, int]] = ()) -> Path:
    """A ``.seg.nrrd`` of 3D Slicer: segments are value, name and layer; layers are the first of four axes."""
    layers = array.ndim == 4
    header = [
        "NRRD0004", f"type: {NRRD_TYPES.get(str(array.dtype), str(array.dtype))}", f"dimension: {array.ndim}",
        "space: left-posterior-superior", f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {'none ' * layers}(1,0,0) (0,1,0) (0,0,2)",
        f"kinds: {'list ' * layers}domain domain domain",
        "endian: little", "encoding: gzip", "space origin: (0,0,0)",
    ]  # fmt: skip
    for number, (value, name, layer) in enumerate(segments):
        header += [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Layer:={layer}"]
        header += [f"Segment{number}_Name:={name}"]
    path.write_bytes("\n".join(header).encode() + b"\n\n" + gzip.compress(array.tobytes("F")))
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("uint8", (1, 255)), ("int8", (-128, 127)), ("int16", (-3, 257)), ("uint16", (1, 65535)), ("int32", IDS),
        ("uint32", (*IDS, 2**32 - 1)), ("int64", (*IDS, -(2**62) - 1, 2**62 + 1)), ("uint64", (*IDS, 2**63 - 1)),
        ("float32", (1, 2035)), ("float64", (*IDS, -7)),
    ],
)  # fmt: skip
def test_values_are_exact_from_file_to_mask(tmp_path: Path, suffix: str, dtype: str, values: tuple[int, ...]) -> None:
    array = bars(*values[:5], dtype=dtype)
    file = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        names = {"float32": "float", "float64": "double"}
        write_segmentation(file, array)
        file.write_bytes(file.read_bytes().replace(f"type: {dtype}\n".encode(), f"type: {names.get(dtype)}\n".encode())
                         if dtype in names else file.read_bytes())  # fmt: skip
    else:
        write_nifti(file, array)
    label = read_label(file, GRID)
    assert not label.is_floating_point()
    np.testing.assert_array_equal(label.numpy()[0].astype(object), array.astype(object))
    mapping = {str(value): index for index, value in enumerate(values, 1)}
    indices = ClassIndices(len(values), mapping)(label)
    np.testing.assert_array_equal(indices.numpy()[0], bars(*range(1, len(values) + 1)))
    back = FileValuesd("pred", mapping)({"pred": indices})["pred"]
    np.testing.assert_array_equal(back.numpy()[0].astype(object), array.astype(object))
    assert str(back.numpy().dtype) == label_dtype(values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((), "uint8"), ((255,), "uint8"), ((256,), "int16"), ((-1, 4), "int16"), ((40000,), "int32"), (IDS, "int32"),
     ((2**31,), "int64"), ((-(2**63), 2**63 - 1), "int64")],
)  # fmt: skip
def test_masks_take_the_smallest_type_of_their_values(values: tuple[int, ...], dtype: str) -> None:
    assert label_dtype(values) == dtype


def test_a_type_without_room_for_a_value_does_not_hold_it() -> None:
    """Torch compares the low bits: ``torch.tensor(1, dtype=torch.uint8) == 257``."""
    indices = ClassIndices(2, {"257": 1, "1": 2})(torch.tensor([[0, 1]], dtype=torch.uint8))
    assert indices.tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="holds the values 0, 182305696, but label_values names"):
        ClassIndices(1, {"182305693": 1})(torch.tensor([[0.0, 182305696.0]]))
    for bad in ({"1.5": 1}, {str(2**63): 1}):
        with pytest.raises(ValueError, match="label_values must map integers of 64 bits"):
            ClassIndices(1, bad)


def test_scaled_files_round_and_lost_digits_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_nifti(tmp_path / "scaled.nii", bars(30, 20, dtype=np.int16))
    content = bytearray((tmp_path / "scaled.nii").read_bytes())
    content[112:116] = np.float32(0.1).tobytes()  # scl_slope
    (tmp_path / "scaled.nii").write_bytes(content)
    scaled: Any = nib.load(tmp_path / "scaled.nii")
    stored = np.asarray(scaled.dataobj)
    assert not (stored == stored.round()).all()  # 0.1 is no float: that is what the tolerance is for
    np.testing.assert_array_equal(read_label(tmp_path / "scaled.nii", GRID).numpy()[0], stored.round())
    np.testing.assert_array_equal(stored.round(), bars(3, 2))
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        read_label(write_nifti(tmp_path / "merged.nii", bars(*IDS, dtype=np.float32)), GRID)
    assert "merged.nii holds values above 16777216 as float32, which merges neighbours" in caplog.text


COLOURS = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
TURNED = np.diag([1.0, -1.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (COLOURS, AFFINE, "holds colours, not one number a voxel"),
        (np.stack([bars(1)] * 2, -1), AFFINE, "has 2 channels: one with a value for each class"),
        (bars(1).astype(np.complex64), AFFINE, "holds complex numbers"),
        (0.3 * bars(1, dtype=np.float32), AFFINE, "holds 0.3, which is no integer: a mask is expected. Threshold"),
        (np.full(SHAPE, np.nan), AFFINE, "holds nan, which is no integer"),
        (np.full(SHAPE, -np.inf), AFFINE, "holds -inf, which is no integer"),
        (np.full(SHAPE, 2.0**63), AFFINE, "holds 9223372036854775808, which 64 bits cannot keep"),
        (np.full(SHAPE, 2**63, np.uint64), AFFINE, "holds 9223372036854775808, which 64 bits cannot keep"),
        (bars(1)[:-1], AFFINE, r"does not lie on the grid of its image: shape \(6, 5, 4\) against \(5, 5, 4\)"),
        (
            bars(1),
            AFFINE + np.eye(4, k=3),
            r"does not lie .*1 mm apart: affine .*0.0\].* against .*1.0\].*Mend",
        ),
        (bars(1), TURNED, r"does not lie .*affine \[\[-1.0,.* against \[\[1.0,.*\(image against label\)"),
    ],
)
def test_what_is_no_label_of_the_image_is_refused_by_name(
    tmp_path: Path, array: np.ndarray, affine: np.ndarray, message: str
) -> None:
    """By the reader and in a case of a training, whose error begins with the image."""
    label = write_nifti(tmp_path / "label.nii.gz", array, affine)
    with pytest.raises(ValueError, match=f"^The label .*label.nii.gz {message}"):
        read_label(label, GRID)
    image = write_nifti(tmp_path / "image.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    transforms: Any = [LoadScand(), LoadLabeld(), ClassIndicesd()]
    case = CheckedDataset([{"image": str(image), "label": str(label)}], Compose(transforms), 1, 1)
    with pytest.raises(
        ValueError, match=rf"^The case .*image.nii.gz cannot be used: The label .*label.nii.gz {message}"
    ):
        case.check()


def test_a_truncated_label_is_named(tmp_path: Path) -> None:
    label = write_nifti(tmp_path / "label.nii.gz", np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8))
    label.write_bytes(label.read_bytes()[:-40])
    image = write_nifti(tmp_path / "image.nii.gz", np.random.default_rng(0).normal(size=SHAPE))
    case = CheckedDataset([{"image": str(image), "label": str(label)}], Compose([LoadScand(), LoadLabeld()]), 1, 1)
    with pytest.raises(ValueError, match=r"image.nii.gz cannot be used: .*label.nii.gz cannot be read: ."):
        case.check()


@pytest.mark.parametrize("turn", [np.eye(4), np.diag([-1.0, 1, 1, 1]), np.eye(4)[[2, 0, 1, 3]]])
def test_a_label_takes_the_grid_of_its_image_within_the_tolerance(tmp_path: Path, turn: np.ndarray) -> None:
    """11 steps of 4.998 and of 5.002 mm are 28 and 29 slices of 2 mm."""
    array = np.zeros((20, 18, 12), np.uint8)
    array[5:15, 4:12, 3:9] = 1
    random = np.random.default_rng(0)
    for first, second in ((4.998, 5.002), (5.002, 4.998)):
        image = write_nifti(tmp_path / "a.nii", array + random.normal(0, 0.1, array.shape),
                            turn @ np.diag([0.5, 0.5, first, 1]))  # fmt: skip
        label = write_nifti(tmp_path / "l.nii", array, turn @ np.diag([0.5, 0.5, second, 1]))
        loaded = LoadLabeld()(LoadScand()({"image": str(image), "label": str(label)}))
        assert torch.equal(loaded["image"].affine, loaded["label"].affine)
        moved: Any = Spacingd(["image", "label"], [1, 1, 2], mode=["bilinear", "nearest"], dtype=None)(loaded)
        assert moved["image"].shape == moved["label"].shape
        bright, mask = moved["image"] > 0.5, moved["label"] > 0
        assert 2 * (bright & mask).sum() / (bright.sum() + mask.sum()) > 0.95
        resampled_before: Any = Spacingd("image", [1, 1, 2])(LoadScand()({"image": str(image), "label": str(label)}))
        assert torch.equal(LoadLabeld()(resampled_before)["label"].affine, loaded["label"].affine)  # as evaluations do


def test_names_of_segments_are_those_of_values_that_occur(tmp_path: Path) -> None:
    segments = [(1, "liver", 0), (2, "tumour", 0), (300, "spleen", 0)]
    label = read_label(write_segmentation(tmp_path / "a.seg.nrrd", bars(1, 44), segments), GRID)
    assert label.meta["value_names"] == {1: "liver"}  # 44 is what a byte keeps of 300
    assert "value_names" not in read_label(write_segmentation(tmp_path / "b.seg.nrrd", bars(1)), GRID).meta


@pytest.mark.parametrize(
    ("array", "segments", "message"),
    [
        (np.stack([bars(1), bars(0, 2)]), [(1, "liver", 0), (2, "tumour", 1)], "has 2 channels.*layers in 3D Slicer"),
        (np.stack([bars(1), bars(0, 1)]), [(1, "liver", 0), (1, "tumour", 1)],
         "has two segments of the value 1, 'liver' and 'tumour'.*export a label map"),
        (bars(1), [("one", "liver", 0)], "says that Segment0_LabelValue is 'one': an integer is expected"),
    ],
)  # fmt: skip
def test_segments_that_overlap_are_refused(tmp_path: Path, array: np.ndarray, segments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^The label .*a.seg.nrrd {message}"):
        read_label(write_segmentation(tmp_path / "a.seg.nrrd", array, segments), GRID)


@pytest.mark.parametrize(
    ("names", "fails"), [({"1": "liver", "2": "tumour"}, False), ({"1": "tumour", "2": "x"}, True)]
)
def test_a_case_whose_segments_have_other_values_is_refused(tmp_path: Path, names: Any, fails: bool) -> None:
    segments = [(1, "Liver", 0), (2, "Tumour", 0)]
    label = read_label(write_segmentation(tmp_path / "a.seg.nrrd", bars(1, 2), segments), GRID)
    transform = ClassIndicesd(num_classes=2, class_names=names)
    if fails:
        with pytest.raises(ValueError, match=r"a.seg.nrrd calls the value 2 'Tumour', but .*'tumour' is 1"):
            transform({"label": label})
    else:
        result = transform({"label": label})["label"]
        assert isinstance(result, MetaTensor)
        assert "value_names" not in result.meta  # batches of cases with other names must collate
