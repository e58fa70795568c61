"""Tests of the metrics: hand-computed geometry, a naive all-pairs reference, medpy, empty masks and invariances."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from medpy.metric import binary as medpy
from monai.data.meta_tensor import MetaTensor

from simcvd_bundle.evaluation.metrics import METRICS, case_metrics

SPACING_MM = (0.8, 1.0, 2.5)
DISTANCES = ("hd95_voxel", "hd95_mm", "asd_voxel", "asd_mm", "assd_voxel", "assd_mm")
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def mask(shape: tuple[int, ...], *boxes: tuple[slice | int, ...]) -> Mask:
    """A mask of the given shape with boxes of foreground."""
    out = np.zeros(shape, dtype=bool)
    for box in boxes:
        out[box] = True
    return out


def blob(seed: int, threshold: float = 0.5) -> Mask:
    """A random mask with holes and islands that touches the border of its (8, 7, 6) volume."""
    noise = np.random.default_rng(seed).random((9, 8, 7))
    smooth = (noise[1:, 1:, 1:] + noise[:-1, 1:, 1:] + noise[1:, :-1, 1:] + noise[1:, 1:, :-1]) / 4
    return np.asarray(smooth > threshold)


def naive_surface(volume: Mask) -> list[tuple[int, ...]]:
    """Voxels of a mask with one of their six neighbours outside the mask or outside the volume."""
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    inside = {index for index in product(*map(range, volume.shape)) if volume[index]}
    return sorted(v for v in inside if any((v[0] + i, v[1] + j, v[2] + k) not in inside for i, j, k in steps))


def naive_distances(source: Mask, target: Mask, spacing: tuple[float, ...]) -> list[float]:
    """Distance of every surface voxel of the source to the nearest surface voxel of the target, over all pairs."""
    target_surface = naive_surface(target)
    return [
        min(math.sqrt(sum(((i - j) * s) ** 2 for i, j, s in zip(a, b, spacing, strict=True))) for b in target_surface)
        for a in naive_surface(source)
    ]


def test_line_against_point_tells_the_conventions_apart() -> None:
    """One case in which pooled and maximal percentile, and all three kinds of mean distance, differ."""
    # d(pred, label) = 0, 1, 2, 3 voxels along x, d(label, pred) = 0. Pooled and sorted: 0, 0, 1, 2, 3, whose 95th
    # percentile lies at position 0.95 * 4 = 3.8 (the larger of the two percentiles would be 2.85). Pooled mean: 1.2.
    pred, label = mask((6, 5, 5), (slice(1, 5), 2, 2)), mask((6, 5, 5), (1, 2, 2))
    expected = {"dice": 0.4, "jaccard": 0.25, "hd95_voxel": 2.8, "asd_voxel": 1.5, "assd_voxel": 0.75}
    expected |= {"hd95_mm": 5.6, "asd_mm": 3.0, "assd_mm": 1.5}
    result = case_metrics(pred, label, (2.0, 1.0, 0.5))
    assert result == pytest.approx(expected)
    assert tuple(result) == METRICS
    assert all(type(value) is float for value in result.values())
    assert case_metrics(label, pred, (2.0, 1.0, 0.5)) == pytest.approx(expected | {"asd_voxel": 0.0, "asd_mm": 0.0})


def test_solid_cubes_shifted_by_one_voxel() -> None:
    """26 surface voxels each; the far face (9) and the voxel on the other's hidden centre are 1 voxel away."""
    pred = mask((7, 5, 5), (slice(2, 5), slice(1, 4), slice(1, 4)))
    label = mask((7, 5, 5), (slice(1, 4), slice(1, 4), slice(1, 4)))
    result = case_metrics(pred, label, (1.0, 1.0, 1.0))
    assert result["dice"] == pytest.approx(2 / 3)
    assert result["jaccard"] == pytest.approx(0.5)
    assert [result[key] for key in DISTANCES] == pytest.approx([1, 1, 10 / 26, 10 / 26, 10 / 26, 10 / 26])


@pytest.mark.parametrize(("axis", "shift"), [(0, 3), (1, 2), (2, 4)])
def test_parallel_plates_are_apart_by_their_offset(axis: int, shift: int) -> None:
    """Every axis takes its own spacing."""
    planes: list[list[slice | int]] = [[slice(None)] * 3, [slice(None)] * 3]
    planes[0][axis], planes[1][axis] = 1 + shift, 1
    result = case_metrics(mask((8, 7, 6), tuple(planes[0])), mask((8, 7, 6), tuple(planes[1])), SPACING_MM)
    assert result["dice"] == result["jaccard"] == 0
    assert [result[key] for key in DISTANCES] == pytest.approx([shift, shift * SPACING_MM[axis]] * 3)


def test_border_of_the_volume_is_surface() -> None:
    """The surface of a full 3 x 3 x 3 volume: 6 faces, 12 edges and 8 corners around the centre."""
    result = case_metrics(np.ones((3, 3, 3), dtype=bool), mask((3, 3, 3), (1, 1, 1)), (1.0, 1.0, 1.0))
    asd = (6 + 12 * math.sqrt(2) + 8 * math.sqrt(3)) / 26
    assert result["asd_voxel"] == pytest.approx(asd)
    assert result["assd_voxel"] == pytest.approx((asd + 1) / 2)
    assert result["hd95_voxel"] == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("seed", range(3))
def test_naive_reference(seed: int) -> None:
    """All keys against sets of voxels and all pairs of surface voxels."""
    pred, label = blob(seed), blob(seed + 100, threshold=0.6)
    expected: dict[str, float] = {}
    for unit, spacing in (("voxel", (1.0, 1.0, 1.0)), ("mm", SPACING_MM)):
        forth, back = naive_distances(pred, label, spacing), naive_distances(label, pred, spacing)
        expected[f"hd95_{unit}"] = float(np.percentile(forth + back, 95))
        expected[f"asd_{unit}"] = sum(forth) / len(forth)
        expected[f"assd_{unit}"] = (sum(forth) / len(forth) + sum(back) / len(back)) / 2
    voxels = [{index for index in product(*map(range, m.shape)) if m[index]} for m in (pred, label)]
    expected["dice"] = 2 * len(voxels[0] & voxels[1]) / (len(voxels[0]) + len(voxels[1]))
    expected["jaccard"] = len(voxels[0] & voxels[1]) / len(voxels[0] | voxels[1])
    assert case_metrics(pred, label, SPACING_MM) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_medpy(seed: int) -> None:
    """The conventions are medpy's."""
    pred, label = blob(seed), blob(seed + 100, threshold=0.6)
    result = case_metrics(pred, label, SPACING_MM)
    assert result["dice"] == pytest.approx(medpy.dc(pred, label))
    assert result["jaccard"] == pytest.approx(medpy.jc(pred, label))
    for unit, spacing in (("voxel", None), ("mm", SPACING_MM)):
        forth, back = medpy.asd(pred, label, spacing), medpy.asd(label, pred, spacing)
        assert result[f"hd95_{unit}"] == pytest.approx(medpy.hd95(pred, label, spacing), rel=1e-6)
        assert result[f"asd_{unit}"] == pytest.approx(forth, rel=1e-6)
        assert result[f"assd_{unit}"] == pytest.approx((forth + back) / 2, rel=1e-6)  # medpy.assd up to medpy 0.4


@pytest.mark.parametrize("empty", ["pred", "label"])
def test_one_empty_mask_is_the_worst_case(empty: str) -> None:
    """No overlap, and the diagonal of the volume: 3-4-12 in voxels."""
    masks = {"pred": mask((3, 4, 12), (1, 1, 1)), "label": mask((3, 4, 12), (1, 1, 1))}
    masks[empty][:] = False
    result = case_metrics(masks["pred"], masks["label"], (4.0, 3.0, 7.0))
    assert result["dice"] == result["jaccard"] == 0
    assert [result[key] for key in DISTANCES] == pytest.approx([13.0, math.sqrt(12**2 + 12**2 + 84**2)] * 3)


def test_both_empty_is_undefined() -> None:
    """Nothing to measure is NaN in every key, not a perfect score."""
    result = case_metrics(mask((3, 4, 5)), mask((3, 4, 5)), SPACING_MM)
    assert tuple(result) == METRICS
    assert all(math.isnan(value) for value in result.values())


def test_identity_and_symmetry() -> None:
    """A mask equals itself; swapping the masks changes the directed distance only."""
    pred, label = blob(0), blob(1)
    assert case_metrics(pred, pred, SPACING_MM) == dict.fromkeys(METRICS, 0.0) | {"dice": 1.0, "jaccard": 1.0}
    forth, back = case_metrics(pred, label, SPACING_MM), case_metrics(label, pred, SPACING_MM)
    symmetric = [key for key in METRICS if not key.startswith("asd")]
    assert [forth[key] for key in symmetric] == pytest.approx([back[key] for key in symmetric])
    assert (forth["asd_mm"] + back["asd_mm"]) / 2 == pytest.approx(forth["assd_mm"])
    assert forth["asd_mm"] != pytest.approx(back["asd_mm"])


def test_background_around_the_masks_changes_nothing() -> None:
    """Cropping to the masks is exact."""
    pred, label = blob(0), blob(1)
    padded = [np.pad(m, ((3, 0), (1, 2), (0, 5))) for m in (pred, label)]
    assert case_metrics(padded[0], padded[1], SPACING_MM) == case_metrics(pred, label, SPACING_MM)


@pytest.mark.parametrize("convert", [torch.as_tensor, MetaTensor, lambda m: m.astype(np.uint8) * 255, np.float32])
def test_types(convert: Any) -> None:
    """Any array type and dtype; non-zero is foreground."""
    pred, label = blob(0), blob(1)
    assert case_metrics(convert(pred), convert(label), SPACING_MM) == case_metrics(pred, label, SPACING_MM)


def test_raises() -> None:
    """Shapes that differ and spacings that are none."""
    with pytest.raises(ValueError, match=r"same shape, got \(2, 3, 4\) and \(2, 3, 1\)"):
        case_metrics(mask((2, 3, 4)), mask((2, 3, 1)), SPACING_MM)
    for spacing in [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0)]:
        with pytest.raises(ValueError, match="spacing_mm must be 3 positive numbers"):
            case_metrics(blob(0), blob(1), spacing)
