"""The ramp-up: hand values, limits and errors."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from simcvd_bundle.training.schedules import sigmoid_rampup


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, math.exp(-5)), (10, math.exp(-5 * 0.75**2)), (20, math.exp(-1.25)), (40, 1.0), (41, 1.0), (-3, math.exp(-5))],
)
def test_hand_values(step: int, expected: float) -> None:
    assert sigmoid_rampup(current_step=step, rampup_length=40) == pytest.approx(expected, rel=1e-12)


def test_rises_strictly_to_its_end() -> None:
    values = [sigmoid_rampup(step, 30) for step in range(31)]
    assert all(a < b for a, b in pairwise(values))
    assert values[-1] == 1.0


@pytest.mark.parametrize("step", [0, 1, 100])
def test_no_length_means_no_rampup(step: int) -> None:
    assert sigmoid_rampup(step, 0) == 1.0


def test_negative_length_raises() -> None:
    with pytest.raises(ValueError, match="rampup_length is a number of iterations and must not be negative, got -1"):
        sigmoid_rampup(0, -1)
