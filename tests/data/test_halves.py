"""Halves of the unlabelled cases that take turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from simcvd_bundle.data import HalvesBatchSampler, StreamBatchSampler


def dataset(unlabeled: int, subjects: int | None = None) -> Any:
    """Two labelled cases, then unlabelled ones, of so many subjects where a number is given."""
    items: list[dict[str, Any]] = [{"image": f"{n}", "label": f"{n}"} for n in range(2)]
    items += [{"image": f"{n + 2}"} for n in range(unlabeled)]
    if subjects:
        items = [{**item, "subject": n if n < 2 else 2 + n % subjects} for n, item in enumerate(items)]
    return SimpleNamespace(data=items)


def sampler(data: Any, start: int = 4, stage_length: int = 3, **settings: Any) -> HalvesBatchSampler:
    settings = {"streams": {"labeled": 1, "unlabeled": 2}, "num_iterations": 40, **settings}
    return HalvesBatchSampler(data, start=start, stage_length=stage_length, **settings)


def seen(batches: list[Any], first: int, last: int) -> set[int]:
    return {sample.case for batch in batches[first:last] for sample in batch[1:]}


def test_a_stage_draws_from_one_half_and_the_next_from_the_other() -> None:
    made = sampler(dataset(7), start=10, stage_length=15)
    batches = list(made)
    assert seen(batches, 0, 10) == set(range(2, 9))
    one, other = seen(batches, 10, 25), seen(batches, 25, 40)
    assert {len(one), len(other)} == {3, 4}
    assert one | other == set(range(2, 9))
    assert {sample.case for batch in batches for sample in batch[:1]} == {0, 1}
    whole = list(StreamBatchSampler(dataset(7), {"labeled": 1, "unlabeled": 2}, 40))
    assert batches[:10] == whole[:10]
    assert [batch[:1] for batch in batches] == [batch[:1] for batch in whole]


def test_scans_of_a_subject_are_in_one_half() -> None:
    data = dataset(12, subjects=5)
    halves = {}
    for seed in range(8):
        made = sampler(data, seed=seed)
        subjects = [{data.data[case]["subject"] for case in half} for half in made.halves]
        assert not subjects[0] & subjects[1]
        assert sorted(map(len, subjects)) == [2, 3]
        halves[seed] = tuple(made.halves[0])
        assert sampler(data, seed=seed).halves == made.halves
    assert len(set(halves.values())) > 2


def test_what_cannot_take_turns_is_refused() -> None:
    with pytest.raises(ValueError, match="of 1 subject, but two halves take turns: add unlabelled scans"):
        sampler(dataset(3, subjects=1))
    for start, length in ((-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=f"stage_length of at least 1, got {start} and {length}"):
            sampler(dataset(4), start=start, stage_length=length)
