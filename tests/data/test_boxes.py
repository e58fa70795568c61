"""Which box a sample reads: around voxels of all classes equally often, or anywhere, and bit for bit the same."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from simcvd_bundle.data.batches import SampleIndex
from simcvd_bundle.data.boxes import box_around, random_box
from simcvd_bundle.data.cache import DiskCacheDataset
from simcvd_bundle.data.foreground import MOST_POSITIONS, class_positions, draw_position, largest_pieces

SHAPE = (40, 36, 20)
PATCH = [8, 8, 6]
CENTRES = {1: (30, 9, 14), 2: (6, 30, 3)}


@pytest.fixture
def case(tmp_path: Path) -> dict[str, str]:
    """Class 1 has 27 voxels around its centre, class 2 a single one; the image holds the number of each voxel."""
    label = np.zeros(SHAPE, np.uint8)
    label[29:32, 8:11, 13:16] = 1
    label[CENTRES[2]] = 2
    image = np.arange(label.size, dtype=np.float32).reshape(SHAPE)
    for name, volume in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii")
    return {name: str(tmp_path / f"{name}.nii") for name in ("image", "label")}


def make(case: dict[str, str], folder: str, prob: float, **arguments: Any) -> DiskCacheDataset:
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys, allow_missing_keys=True), EnsureChannelFirstd(keys, allow_missing_keys=True)])
    settings = {"region": [24, 24, 18], "patch_size": PATCH, "num_classes": 2, "progress": False, **arguments}
    return DiskCacheDataset([case], load, str(Path(case["image"]).parent / folder), foreground_prob=prob, **settings)


def corner(sample: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(sample["image"].min()), SHAPE))


def test_classes_come_equally_often_in_the_middle(case: dict[str, str]) -> None:
    """At 0.6 of 500 samples 150 a class are expected, with a standard deviation of 10; class 2 has one voxel only."""
    dataset = make(case, "cache", 0.6)
    counts: Counter[int] = Counter()
    for seed in range(500):
        sample = dataset[SampleIndex(0, seed)]
        assert sample.keys() == {"image", "label"}
        if list(sample["image"].shape[1:]) == PATCH:
            counts[int(sample["label"][0, 4, 4, 3])] += 1
        else:
            assert list(sample["image"].shape[1:]) == [24, 24, 18]
    assert counts.keys() == {1, 2}
    assert abs(counts[1] - 150) < 40
    assert abs(counts[2] - 150) < 40


def test_without_foreground_prob_samples_are_as_before(case: dict[str, str]) -> None:
    """And so are, at any probability, those that are not centred."""
    plain, never, half = make(case, "a", 0, patch_size=None), make(case, "a", 0.0), make(case, "a", 0.5)
    same = 0
    for seed in range(40):
        expected = plain[SampleIndex(0, seed)]
        random = np.random.default_rng(seed)
        drawn = tuple(int(random.integers(size - most + 1)) for size, most in zip(SHAPE, (24, 24, 18), strict=True))
        assert corner(expected) == drawn
        assert torch.equal(never[SampleIndex(0, seed)]["image"], expected["image"])
        other = half[SampleIndex(0, seed)]["image"]
        same += other.shape == expected["image"].shape and torch.equal(other, expected["image"])
        assert torch.equal(half[SampleIndex(0, seed)]["image"], other)  # a function of the seed
    assert 10 < same < 30


def test_unlabelled_cases_have_no_centre(case: dict[str, str]) -> None:
    dataset = make({"image": case["image"]}, "cache", 1.0)
    assert all(list(dataset[SampleIndex(0, seed)]["image"].shape[1:]) == [24, 24, 18] for seed in range(5))


def test_a_class_without_a_voxel_in_any_labelled_case_is_named(
    case: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="simcvd_bundle.data.cache"):
        make(case, "two", 0.5)
        make(case, "four", 0.5, num_classes=4)
    assert [record.message for record in caplog.records if record.name == "simcvd_bundle.data.cache"] == [
        "No labelled training case (of 1) has a voxel of class 3, 4, so it cannot be learnt: label a case that shows "
        "it, or take it out of class_names."
    ]


@pytest.mark.parametrize(("prob", "patch"), [(1.1, PATCH), (-0.1, PATCH), (0.5, None)])
def test_a_probability_out_of_its_range_raises(case: dict[str, str], prob: float, patch: Any) -> None:
    with pytest.raises(ValueError, match=rf"foreground_prob must lie in \[0, 1\] and needs a patch_size, got {prob}"):
        make(case, "cache", prob, patch_size=patch)


def test_positions_are_voxels_of_their_class() -> None:
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 20, 25, 30)))
    positions = class_positions(label)
    assert list(positions) == [1, 2]
    for index, voxels in positions.items():
        assert voxels.shape == (MOST_POSITIONS, 3)
        assert len({tuple(voxel) for voxel in voxels.tolist()}) == MOST_POSITIONS
        assert set(label[0][tuple(voxels.long().T)].tolist()) == {index}
    assert class_positions(torch.zeros(1, 2, 2, 2)) == {}
    assert draw_position({}, 1.0, 0) is None


def test_pieces_by_hand(case: dict[str, str]) -> None:
    """A corner joins; class 2 has pieces of 3 and 1 voxels. One case where a class has several pieces is enough."""
    label = torch.zeros(1, 6, 6, 6)
    label[0, :2, 0, 0] = label[0, 2, 1, 1] = 1
    label[0, 3:, 5, 5] = label[0, 0, 5, 5] = 2
    assert largest_pieces(label) == {1: 1.0, 2: 0.75}
    assert largest_pieces(torch.zeros(1, 2, 2, 2)) == {}
    dataset = make(case, "cache", 0.0, num_classes=3)
    assert dataset.pieces == [{1: 1.0, 2: 1.0}]
    assert dataset.one_piece_classes() == [1, 2]
    dataset.pieces.append({1: 0.96, 2: 0.94, 3: 1.0})
    assert dataset.one_piece_classes() == [1, 3]


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        ((10, 10, 10), [(6, 14), (6, 14), (7, 13)]),
        ((0, 39, 19), [(0, 8), (32, 40), (14, 20)]),  # moved inside
        ((3, 37, 17), [(0, 8), (32, 40), (14, 20)]),
    ],
)
def test_boxes_by_hand(position: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    """Square in the plane: the patch of 8 x 4 x 6 may be turned."""
    assert [(s.start, s.stop) for s in box_around(position, (8, 4, 6), (40, 40, 20))] == expected


def test_a_volume_smaller_than_the_patch_is_taken_whole() -> None:
    assert [range(5)[s] for s in box_around((4, 0, 2), (8, 8, 8), (5, 5, 5))] == [range(5)] * 3
    assert [range(5)[s] for s in random_box((5, 5, 5), (8, 8, 8), 0)] == [range(5)] * 3
