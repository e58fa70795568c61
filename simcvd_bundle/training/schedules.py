"""Ramp-ups: pure functions of the iteration, and the handler that applies one."""

from __future__ import annotations

import math

from ignite.engine import Engine, Events

from simcvd_bundle.losses.weighted import WeightedTerms


def sigmoid_rampup(current_step: int, rampup_length: int) -> float:
    """``exp(-5 (1 - t / t_max)^2)`` (paper, training recipe; Laine and Aila, ICLR 2017).

    Args:
        current_step: t, in iterations.
        rampup_length: t_max, in iterations; 0 means no ramp-up.

    Returns:
        Factor from exp(-5) = 0.0067 at t = 0 to 1 at t >= t_max.

    Raises:
        ValueError: when ``rampup_length`` is negative.
    """
    if rampup_length < 0:
        raise ValueError(f"rampup_length is a number of iterations and must not be negative, got {rampup_length}.")
    remaining = 1.0 - min(max(current_step, 0), rampup_length) / rampup_length if rampup_length else 0.0
    return math.exp(-5.0 * remaining**2)


class RampUpHandler:
    """Tell a loss the iteration and the ramp-up factor before every iteration.

    Args:
        loss: the loss.
        length: iterations until the factor is 1; 0 means no ramp-up.

    Raises:
        ValueError: when ``length`` is negative.
    """

    def __init__(self, loss: WeightedTerms, length: int) -> None:
        sigmoid_rampup(0, length)
        self.loss = loss
        self.length = length

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set both; iterations count from 1."""
        self.loss.iteration = engine.state.iteration
        self.loss.ramp = sigmoid_rampup(engine.state.iteration, self.length)
