"""A short version of the fault runs of `make faults`: each script asserts that every fault ends as it must."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["kills.py", "--kills", "4"],
        ["storage.py", "full_disk", "second_process"],
        ["bad_input.py", "--every", "8"],
        ["endurance.py", "--epochs", "12", "--iterations", "30"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_faults_end_as_they_must(arguments: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "faults" / arguments[0]), *arguments[1:]], env=environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
