"""A short version of the fault runs of `make faults`: each script asserts that every fault ends as it must."""

from __future__ import annotations

from pathlib import Path

import bad_input
import endurance
import kills
import storage


def test_a_killed_training_ends_as_if_nobody_had_killed_it(tmp_path: Path) -> None:
    counts = kills.main(3, 0, tmp_path)
    assert counts["killed at moment: checkpoint"] == 1
    assert counts["killed at moment: weights"] == 2


def test_a_full_disk_and_a_second_process_cost_nothing(tmp_path: Path) -> None:
    assert storage.main(tmp_path, ["full_disk", "second_process"]) == {"full_disk": 4, "second_process": 2}


def test_bad_input_is_refused(tmp_path: Path) -> None:
    counts, problems = bad_input.main(tmp_path, every=8)
    assert not problems
    assert counts["kinds"] == 14


def test_ctrl_c_ends_the_workers_and_low_precision_stays_finite(tmp_path: Path) -> None:
    counts = endurance.main(tmp_path, ["interrupt", "bfloat16", "float16"], epochs=0, iterations=10)
    assert counts["workers left after Ctrl-C"] == 0
