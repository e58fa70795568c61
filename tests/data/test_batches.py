"""The batch sampler of named streams: order, rounds, resuming, processes and errors."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from simcvd_bundle.data.batches import SampleIndex, StreamBatchSampler

LABELED, UNLABELED = {1, 3, 4}, {0, 2, 5, 6, 7}


def dataset(labeled: set[int] = LABELED, unlabeled: set[int] = UNLABELED) -> Any:
    """Datalist in which labelled and unlabelled items alternate; one unlabelled item has an explicit null."""
    items: list[dict[str, Any]] = [{"image": f"{i}", "label": f"{i}"} for i in range(len(labeled | unlabeled))]
    for i in unlabeled:
        items[i] = {"image": f"{i}"} | ({"label": None} if i == 0 else {})
    return SimpleNamespace(data=items)


def streams(labeled: int, unlabeled: int) -> dict[str, int]:
    return {"labeled": labeled, "unlabeled": unlabeled}


def sampler(labeled_size: int = 2, unlabeled_size: int = 3, iterations: int = 6, **arguments: Any) -> Any:
    return StreamBatchSampler(dataset(), streams(labeled_size, unlabeled_size), iterations, **arguments)


def test_labelled_cases_come_first() -> None:
    batches = list(sampler())
    assert len(batches) == 6
    for batch in batches:
        assert len(batch) == 5
        assert all(isinstance(sample, SampleIndex) for sample in batch)
        assert {sample.case for sample in batch[:2]} <= LABELED
        assert {sample.case for sample in batch[2:]} <= UNLABELED


def test_every_case_once_a_round_and_rounds_differ() -> None:
    """15 batches hold 30 labelled draws, 10 rounds of 3, and 45 unlabelled, 9 rounds of 5."""
    batches = list(sampler(iterations=15))
    labeled = [sample.case for batch in batches for sample in batch[:2]]
    unlabeled = [sample.case for batch in batches for sample in batch[2:]]
    rounds = [labeled[i : i + 3] for i in range(0, 30, 3)]
    assert all(set(r) == LABELED for r in rounds)
    assert len({tuple(r) for r in rounds}) > 2
    rounds = [unlabeled[i : i + 5] for i in range(0, 45, 5)]
    assert all(set(r) == UNLABELED for r in rounds)
    assert len({tuple(r) for r in rounds}) > 4


def test_batches_are_a_function_of_seed_and_iteration() -> None:
    full = list(sampler(seed=3))
    again = sampler(seed=3)
    assert again.batch(4) == full[4]  # whatever was drawn before
    assert list(again) == full
    assert list(again) == full  # a second pass
    assert [[s.seed for s in batch] for batch in sampler(seed=4)] != [[s.seed for s in batch] for batch in full]
    assert [[s.case for s in batch] for batch in sampler(seed=4)] != [[s.case for s in batch] for batch in full]


@pytest.mark.parametrize("start", [0, 2, 6, 9])
def test_start_in_the_middle_gives_the_tail(start: int) -> None:
    full = list(sampler())
    resumed = sampler()
    resumed.start = start
    assert list(resumed) == full[start:]
    assert len(resumed) == len(full[start:])


def test_seeds_of_all_samples_differ() -> None:
    """Also those of a case that comes again, and those of the two streams."""
    samples = [sample for batch in sampler(iterations=50) for sample in batch]
    assert len({sample.seed for sample in samples}) == len(samples)
    assert all(0 <= sample.seed < 2**32 for sample in samples)


def test_processes_share_the_global_batch() -> None:
    """Two processes together see what one with twice the batch sizes sees, without overlap."""
    ranks = [sampler(1, 2, rank=rank, world_size=2) for rank in range(2)]
    single = sampler(2, 4)
    for iteration in range(6):
        first, second = (rank.batch(iteration) for rank in ranks)
        assert not set(first) & set(second)
        assert [*first[:1], *second[:1], *first[1:], *second[1:]] == single.batch(iteration)


def test_ranks_draw_different_cases() -> None:
    """8 positions of a round of 8 cases, cut into 4 shares."""
    pool = dataset(set(range(8)), set())
    ranks = [StreamBatchSampler(pool, streams(2, 0), 1, rank=rank, world_size=4) for rank in range(4)]
    assert sorted(sample.case for rank in ranks for sample in rank.batch(0)) == list(range(8))


def test_supervised_training_has_no_second_stream(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.data.batches"):
        supervised = StreamBatchSampler(dataset({0, 1}, set()), streams(2, 0), 3)
    assert [len(batch) for batch in supervised] == [2, 2, 2]
    assert caplog.messages == ["labeled images=2, unlabeled images=0"]


def test_without_unlabelled_cases_the_labelled_ones_feed_both_streams(caplog: pytest.LogCaptureFixture) -> None:
    labeled = set(range(6))
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.data.batches"):
        both = StreamBatchSampler(dataset(labeled, set()), streams(2, 2), 3)
    assert caplog.messages == [
        "labeled images=6, unlabeled images=0",
        "No unlabeled image: the labeled ones feed the unsupervised terms too.",
    ]
    batches = list(both)
    first = [sample.case for batch in batches for sample in batch[:2]]
    second = [sample.case for batch in batches for sample in batch[2:]]
    assert set(first) == set(second) == labeled
    assert first != second


def test_log_counts_the_two_sets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.data.batches"):
        sampler()
    assert caplog.messages == ["labeled images=3, unlabeled images=5"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 0), "A batch would be empty: set labeled_batch_size or unlabeled_batch_size"),
        ((1, -1), "unlabeled_batch_size is -1, but must be an integer of at least 0"),
        ((1.5, 1), "labeled_batch_size is 1.5"),
        ((True, 1), "labeled_batch_size is True"),
    ],
)
def test_batch_sizes_out_of_range_raise(sizes: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(*sizes)


def test_an_unknown_stream_raises() -> None:
    with pytest.raises(ValueError, match="streams names strong: the known ones are labeled, unlabeled"):
        StreamBatchSampler(dataset(), {"labeled": 1, "strong": 1}, 1)


def test_a_training_may_have_the_unlabelled_stream_alone() -> None:
    """Its draws are those that it has beside a labelled stream."""
    alone = StreamBatchSampler(dataset(), {"unlabeled": 3}, 6)
    assert list(alone) == [batch[2:] for batch in sampler()]
    assert len(list(StreamBatchSampler(dataset(set(), {0, 1}), {"unlabeled": 2}, 3))) == 3


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_rank_out_of_range_raises(rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match=f"got rank {rank} of {world_size}"):
        sampler(rank=rank, world_size=world_size)


def test_no_labelled_case_raises() -> None:
    with pytest.raises(ValueError, match="no labelled case: give at least one item a `label`"):
        StreamBatchSampler(dataset(set(), {0, 1}), streams(1, 1), 1)
