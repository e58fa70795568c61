"""The signed distance map: hand values, limit cases, several classes, metadata and errors."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from simcvd_bundle.data.transforms import (
    ClassIndices,
    ClassIndicesd,
    FileValuesd,
    SignedDistanceMap,
    SignedDistanceMapd,
)

FAR = math.sqrt(12)  # of the corner (0, 0, 0) from the cube's corner (2, 2, 2)


def cube(value: float = 1.0) -> Tensor:
    """A cube of side 5 in the middle of a volume of side 9."""
    label = torch.zeros(1, 9, 9, 9)
    label[:, 2:7, 2:7, 2:7] = value
    return label


@pytest.mark.parametrize(
    ("voxel", "expected"),
    [
        ((0, 0, 0), 1.0),
        ((8, 8, 8), 1.0),
        ((0, 4, 4), 2 / FAR),
        ((1, 1, 4), math.sqrt(2) / FAR),
        ((1, 4, 4), 1 / FAR),
        ((2, 4, 4), 0.0),  # faces, edges and corners of the cube are its inner boundary
        ((2, 2, 6), 0.0),
        ((3, 4, 4), -2 / 3),
        ((3, 3, 3), -2 / 3),
        ((4, 4, 4), -1.0),
    ],
)
def test_cube(voxel: tuple[int, int, int], expected: float) -> None:
    assert float(SignedDistanceMap()(cube())[(0, *voxel)]) == pytest.approx(expected, abs=1e-6)


def test_cube_signs_and_extremes() -> None:
    label = cube()
    sdm = SignedDistanceMap()(label)
    assert sdm.shape == label.shape
    assert sdm.dtype == torch.float32
    assert type(sdm) is Tensor
    assert (sdm[label == 0] > 0).all()
    assert (sdm[label == 1] <= 0).all()
    assert int((sdm == 0).sum()) == 5**3 - 3**3
    assert (float(sdm.min()), float(sdm.max())) == (-1.0, 1.0)
    assert torch.equal(label, cube())  # the label itself is left alone


def test_border_of_the_array_is_no_boundary() -> None:
    """A class in a corner ends where the background begins, not where the crop ends."""
    label = torch.zeros(1, 6, 6, 6)
    label[:, :3, :3, :3] = 1
    sdm = SignedDistanceMap()(label)[0]
    assert float(sdm[0, 0, 0]) == -1.0
    assert float(sdm[2, 0, 0]) == 0.0


def test_thin_class_is_all_boundary() -> None:
    label = torch.zeros(1, 5, 5, 5)
    label[:, 2, 2, 2] = 1
    sdm = SignedDistanceMap()(label)[0]
    assert float(sdm[2, 2, 2]) == 0.0
    assert float(sdm[0, 2, 2]) == pytest.approx(2 / FAR)


def test_absent_and_filling_class() -> None:
    empty = SignedDistanceMap()(torch.zeros(1, 3, 4, 5))
    full = SignedDistanceMap()(torch.ones(1, 3, 4, 5))
    assert torch.equal(empty, torch.ones(1, 3, 4, 5))
    assert torch.equal(full, -torch.ones(1, 3, 4, 5))


def test_each_class_gets_its_own_map() -> None:
    """Other classes count as background; class 3 is absent."""
    label = cube()
    label[:, 7:, :, :] = 2
    sdm = SignedDistanceMap(num_classes=3)(label)
    assert sdm.shape == (3, 9, 9, 9)
    torch.testing.assert_close(sdm[:1], SignedDistanceMap()((label == 1).float()))
    torch.testing.assert_close(sdm[1:2], SignedDistanceMap()((label == 2).float()))
    assert not torch.allclose(sdm[0], sdm[1])
    assert torch.equal(sdm[2], torch.ones(9, 9, 9))


def test_slices_have_maps_too() -> None:
    label = torch.zeros(1, 7, 7)
    label[:, 2:5, 2:5] = 1
    sdm = SignedDistanceMap()(label)
    assert (float(sdm[0, 3, 3]), float(sdm[0, 2, 3]), float(sdm[0, 0, 0])) == (-1.0, 0.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8, torch.int64, torch.bool])
def test_any_dtype(dtype: torch.dtype) -> None:
    result = SignedDistanceMap()(cube().to(dtype))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, SignedDistanceMap()(cube()))


def test_numpy_array() -> None:
    result = SignedDistanceMap()(cube().numpy().astype(np.uint8))
    torch.testing.assert_close(result, SignedDistanceMap()(cube()))


def test_metatensor_keeps_its_affine() -> None:
    affine = torch.diag(torch.tensor([0.5, 0.6, 2.0, 1.0], dtype=torch.float64))
    result = SignedDistanceMap(num_classes=2)(MetaTensor(cube(), affine=affine))
    assert isinstance(result, MetaTensor)
    assert result.shape == (2, 9, 9, 9)
    torch.testing.assert_close(result.affine, affine)
    torch.testing.assert_close(result.as_tensor()[:1], SignedDistanceMap()(cube()))


@pytest.mark.parametrize(
    ("value", "shown"), [(2.0, "0, 2"), (0.5, "0, 0.5"), (-1.0, "-1, 0"), (256.0, "0, 256"), (1e9, "0, 1000000000")]
)
def test_other_values_raise(value: float, shown: str) -> None:
    for transform in (SignedDistanceMap(), ClassIndices()):
        with pytest.raises(ValueError, match=re.escape(f"holds the values {shown}, but class_names names 1 classes")):
            transform(cube(value))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float64])
def test_class_indices_are_8_bit(dtype: torch.dtype) -> None:
    label = torch.tensor([[0, 1, 3], [2, 0, 1]])
    indices = ClassIndices(3)(label.to(dtype))
    assert indices.dtype == torch.uint8
    assert torch.equal(indices.long(), label)
    with_meta = ClassIndices(3)(MetaTensor(label.to(dtype), affine=torch.eye(4) * 2))
    assert isinstance(with_meta, MetaTensor)
    assert float(with_meta.affine[0, 0]) == 2


@pytest.mark.parametrize("num_classes", [0, 256])
def test_number_of_classes_fits_8_bits(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes must lie in 1 .. 255, got {num_classes}"):
        ClassIndices(num_classes)


def test_class_indices_of_a_dictionary() -> None:
    item: dict[Any, Any] = {"image": "image", "label": cube()}
    assert ClassIndicesd("label")(item)["label"].dtype == torch.uint8
    assert item["label"].dtype == torch.float32
    assert ClassIndicesd("label", allow_missing_keys=True)({"image": "image"}) == {"image": "image"}


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (0, 4, 4, 4), (4,)])
def test_other_shapes_raise(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"of shape (1, H, W[, D]), got {list(shape)}")):
        SignedDistanceMap()(torch.zeros(shape))


def test_dictionary_form_writes_beside_the_label() -> None:
    item: dict[Any, Any] = {"image": "image", "truth": cube(2.0)}
    result = SignedDistanceMapd("truth", sdm_key="distance", num_classes=2)(item)
    assert set(item) == {"image", "truth"}
    assert set(result) == {"image", "truth", "distance"}
    assert result["truth"] is item["truth"]
    torch.testing.assert_close(result["distance"], SignedDistanceMap(num_classes=2)(cube(2.0)))


def test_item_without_label() -> None:
    item: dict[Any, Any] = {"image": "image"}
    assert SignedDistanceMapd(allow_missing_keys=True)(item) == item
    with pytest.raises(KeyError, match="label"):
        SignedDistanceMapd()(item)


VALUES = {"500": 1, "205": 2, "600": 1, "9": 0}


def test_values_of_files_become_classes_and_return() -> None:
    label = torch.tensor([[0.0, 500.0, 205.0, 600.0, 9.0]])
    indices = ClassIndices(2, VALUES)(label)
    assert indices.dtype == torch.uint8
    assert indices.tolist() == [[0, 1, 2, 1, 0]]
    back = FileValuesd("pred", VALUES)({"pred": indices})["pred"]
    assert back.tolist() == [[0, 500, 205, 500, 0]]  # a merged class takes the first of its values
    assert back.dtype == torch.int16


def test_unknown_value_and_class_are_named() -> None:
    with pytest.raises(ValueError, match=re.escape("the values 0, 7, but label_values names [0, 9, 205, 500, 600]")):
        ClassIndices(2, VALUES)(torch.tensor([[0, 7]]))
    with pytest.raises(ValueError, match="must map to classes 0 to 1"):
        ClassIndices(1, VALUES)


def test_probabilities_are_no_classes() -> None:
    with pytest.raises(ValueError, match="threshold probabilities first"):
        ClassIndices(2)(torch.tensor([[0.0, 0.7]]))
