"""The fault runs of `make faults`: each asserts that every fault ends as it must. The slow ones are all of them."""

from __future__ import annotations

from pathlib import Path

import bad_input
import endurance
import environment
import kills
import pytest
import storage

slow = pytest.mark.slow


@pytest.mark.parametrize("number", [3, pytest.param(30, marks=slow)])
def test_a_killed_training_ends_as_if_nobody_had_killed_it(tmp_path: Path, number: int) -> None:
    counts = kills.main(number, 0, tmp_path)
    assert counts["killed at moment: checkpoint"] >= 1
    assert counts["killed at moment: weights"] == 2
    assert counts["final weights equal, bit for bit"] == 1


@pytest.mark.parametrize("names", [["full_disk", "second_process"], pytest.param([], marks=slow)], ids=["some", "all"])
def test_faults_of_the_disk_and_of_resuming_cost_nothing(tmp_path: Path, names: list[str]) -> None:
    counts = storage.main(tmp_path, names)
    assert (counts["full_disk"], counts["second_process"]) == (4, 2)
    assert len(counts) == len(names or storage.FAULTS)


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=slow)])
def test_bad_input_is_refused_and_good_scans_of_its_batch_are_written(tmp_path: Path, every: int) -> None:
    counts, problems = bad_input.main(tmp_path, every)
    assert not problems
    assert counts["kinds"] >= 112 // every


@pytest.mark.parametrize(
    "chosen",
    [["shared_memory", "ended_workers", "launchers"], pytest.param(["names"], marks=slow)],
    ids=["some", "names"],
)
def test_faults_of_the_machine_end_with_the_remedy_or_do_not_matter(tmp_path: Path, chosen: list[str]) -> None:
    counts = environment.main(tmp_path, chosen)
    assert list(counts) == chosen
    assert min(counts.values()) >= 2


def test_ctrl_c_ends_the_workers_and_bfloat16_stays_finite(tmp_path: Path) -> None:
    counts = endurance.main(tmp_path, ["interrupt", "bfloat16"], epochs=0, iterations=10)
    assert counts["workers left after Ctrl-C"] == 0


@pytest.mark.slow
def test_memory_of_many_epochs_and_float16(tmp_path: Path) -> None:
    counts = endurance.main(tmp_path, ["memory", "float16"], epochs=100, iterations=50)
    assert counts["samples of memory"] > 10
    after_a_quarter, at_the_end = map(int, counts["open files after a quarter and at the end"].split(", "))
    assert at_the_end <= after_a_quarter + 5
