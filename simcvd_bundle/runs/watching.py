"""What can be seen of a training while it runs: a usable network, and a word when its validation falls."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import Evaluator, Trainer
from torch import nn

from simcvd_bundle.runs.weights import plain_weights, write_tensors

logger = logging.getLogger(__name__)

FALL = 0.03
"""Dice below the best validation from which it counts as fallen; less is taken for scatter (chosen, not measured)."""
COLLAPSE = 0.5
"""Fraction of the best validation below which something has collapsed rather than overfitted."""


class LatestNetwork:
    """Write ``latest/model.pt`` after the first epoch and at every checkpoint, for a look at masks before the end.

    The file is the former or the new one, never half written. Numbers that are not finite replace nothing.

    Args:
        network: the network that the end of the run will write.
        output_dir: folder of the run.
        interval: epochs between two checkpoints.
    """

    def __init__(self, network: nn.Module, output_dir: str, interval: int) -> None:
        self.network = network
        self.path = Path(output_dir, "latest", "model.pt")
        self.interval = interval

    def attach(self, trainer: Trainer) -> None:
        """Register on a trainer, after what checks its numbers; process 0 only."""
        due = Events.EPOCH_COMPLETED(event_filter=lambda _, epoch: epoch == 1 or epoch % self.interval == 0)
        if idist.get_rank() == 0:
            trainer.add_event_handler(due, self)

    def __call__(self, engine: Engine) -> None:
        """Write the network of this epoch."""
        weights = plain_weights(self.network)
        if all(tensor.isfinite().all() for tensor in weights.values()):
            write_tensors(self.path, weights)
            logger.info("The network after %d iterations can be used: %s", engine.state.iteration, self.path)


class FallingMetric:
    """Say in words that a validation lies below the best one, and since which iteration.

    Args:
        name: the network that is validated.
        trainer: its trainer.
    """

    def __init__(self, name: str, trainer: Trainer) -> None:
        self.name = name
        self.trainer = trainer

    def attach(self, evaluator: Evaluator) -> None:
        """Register on an evaluator that has a key metric."""
        evaluator.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare the validation that just ended with the best one."""
        state: Any = engine.state
        value, best = float(state.metrics[state.key_metric_name]), float(state.best_metric)
        if not value < best - FALL:
            return
        best_iteration = state.best_metric_epoch * (self.trainer.state.epoch_length or 0)
        reason = (
            "it has collapsed, a class may have died out (look at latest/panel.png)"
            if value < COLLAPSE * best
            else "it may begin to fit its few labels too closely (overfitting)"
        )
        logger.warning(
            "The validation of the %s falls: Dice %.3f at iteration %d, after %.3f at iteration %d; %s. If it stays "
            "so, stop and train with --iterations %d, or label more.",
            self.name, value, self.trainer.state.iteration, best, best_iteration, reason, best_iteration,
        )  # fmt: skip
