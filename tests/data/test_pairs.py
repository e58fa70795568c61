"""Pairs of crops: whose scans they are, where the crops lie, and that a batch is a function of its iteration."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlipd

from simcvd_bundle.data.cache import DiskCacheDataset
from simcvd_bundle.data.pairs import PairBatchSampler, collate_pairs
from simcvd_bundle.data.subject_phantoms import subject_phantoms

# p, q, r, s have two scans, t three, u one
SUBJECTS = [*"ppqqrrssttt", "u"]
ITEMS = [{"image": f"{who}{number}", "subject": who} for number, who in enumerate(SUBJECTS)]


def sampler(pairs: str, batch_size: int = 3, items: list[dict[str, Any]] = ITEMS, **settings: Any) -> PairBatchSampler:
    return PairBatchSampler(SimpleNamespace(data=items), pairs, batch_size, 40, **settings)  # type: ignore[arg-type]


def drawn(sampler: PairBatchSampler) -> list[list[tuple[Any, Any]]]:
    """Pairs of samples of every batch."""
    return [list(zip(batch[::2], batch[1::2], strict=True)) for batch in sampler]


def test_view_pairs_are_one_crop_with_different_augmentations() -> None:
    batches = drawn(sampler("view", 4))
    for first, second in (pair for batch in batches for pair in batch):
        assert first.case == second.case
        assert first.place == second.place
        assert first.seed != second.seed
    rounds = [first.case for batch in batches for first, _ in batch][: len(ITEMS)]
    assert sorted(rounds) == list(range(len(ITEMS)))


def test_patient_pairs_are_two_scans_of_one_subject() -> None:
    """Of one with a single scan two crops of it; and a batch has no subject twice, so no negative is a positive."""
    seen = set()
    for batch in drawn(sampler("patient")):
        for first, second in batch:
            assert SUBJECTS[first.case] == SUBJECTS[second.case]
            assert (first.case != second.case) == (SUBJECTS[first.case] != "u")
            assert first.place != second.place
            seen.add((first.case, second.case))
        assert len({SUBJECTS[first.case] for first, _ in batch}) == 3
    assert {(8, 9), (9, 10), (10, 8)} <= seen | {pair[::-1] for pair in seen}  # all scans of a subject


def test_position_pairs_are_two_subjects_at_one_depth() -> None:
    for batch in drawn(sampler("position")):
        for first, second in batch:
            assert SUBJECTS[first.case] != SUBJECTS[second.case]
            assert first.place[2] == second.place[2]
            assert first.place[:2] != second.place[:2]
        depths = sorted(first.place[2] for first, _ in batch)
        gaps = [*np.diff(depths), depths[0] + 1 - depths[-1]]
        assert max(gaps) < 2 / 3  # one in each third
        assert all(0 <= depth < 1 for depth in depths)


@pytest.mark.parametrize("pairs", ["view", "patient", "position"])
def test_a_batch_is_a_function_of_seed_and_iteration(pairs: str) -> None:
    whole, again, other = sampler(pairs), sampler(pairs), sampler(pairs, seed=1)
    again.start = 7
    assert list(again) == list(whole)[7:]
    assert list(other) != list(whole)


@pytest.mark.parametrize("pairs", ["view", "patient", "position"])
def test_processes_share_a_batch(pairs: str) -> None:
    """What one process would draw with all pairs."""
    whole = sampler(pairs, 4)
    parts = [sampler(pairs, 2, rank=rank, world_size=2) for rank in range(2)]
    for iteration in range(10):
        assert whole.batch(iteration) == [sample for part in parts for sample in part.batch(iteration)]


@pytest.mark.parametrize(
    ("pairs", "batch_size", "items", "message"),
    [
        ("patients", 2, ITEMS, "pairs must be one of view, patient, position, got 'patients'"),
        ("view", 1, ITEMS, "batch_size is 1, but must be an integer of at least 2"),
        ("view", 2.0, ITEMS, "batch_size is 2.0"),
        ("patient", 2, [{"image": "a"}, {"image": "b"}], "'patient', but a of the datalist has no `subject`"),
        ("patient", 7, ITEMS, r"takes 7 subjects, but the datalist has 6: lower batch_size"),
        ("position", 2, ITEMS[:2], r"takes 2 subjects, but the datalist has 1: .*set pairs to 'view'"),
    ],
)
def test_what_cannot_be_paired(pairs: str, batch_size: Any, items: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(pairs, batch_size, items)


def test_one_scan_gives_views_of_it() -> None:
    assert {sample.case for batch in sampler("view", 2, ITEMS[:1]) for sample in batch} == {0}


def test_collate_puts_partners_a_batch_apart() -> None:
    items = [{"image": MetaTensor(torch.full((1, 2, 2, 2), float(n)))} for n in range(6)]
    images = collate_pairs(items)["pairs"]["image"]
    assert type(images) is torch.Tensor
    assert images[:, 0, 0, 0, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_a_place_is_where_the_box_lies(tmp_path: Path) -> None:
    """The first voxel is 0, the last possible one 1; the same relative place in scans of other sizes."""
    volumes = [torch.arange(np.prod(shape)).reshape(1, *shape).float() for shape in ((4, 5, 9), (4, 4, 21))]
    data = [{"image": volume} for volume in volumes]
    dataset = DiskCacheDataset(data, Compose([RandFlipd("image", prob=0)]), str(tmp_path), region=[4, 4, 5])
    index = sampler("view", items=data).batch(0)[0]
    for case, (volume, firsts) in enumerate(zip(volumes, ([0, 0, 0], [0, 1, 2], [0, 1, 4]), strict=False)):
        for place, first in zip((0.0, 0.5, 1.0), ([0, 2, 4], [0, 8, 16])[case], strict=True):
            box = dataset[index._replace(case=case, place=(0.0, 0.0, place))]["image"]
            assert torch.equal(torch.as_tensor(box), volume[:, :4, :4, first : first + 5])
        assert firsts[0] == 0


def test_phantom_subjects_have_two_scans_of_one_class(tmp_path: Path) -> None:
    from simcvd_bundle.data.datalists import load_datalist
    from simcvd_bundle.data.subjects import scans_by_subject

    folder = subject_phantoms(str(tmp_path / "set"), shape=(28, 28, 28))
    assert subject_phantoms(folder) == folder
    for section, size in (("training", 12), ("validation", 6), ("test", 6)):
        items = load_datalist(folder, section)
        groups = scans_by_subject(items)
        assert len(groups) == size
        assert all(len({items[n]["class"] for n in scans}) == 1 for scans in groups.values())
        assert {len(scans) for scans in groups.values()} == {2}
        assert {item["class"] for item in items} == {"small", "medium", "large"}
