"""What is logged of a run: the loss and its terms, metrics, progress."""

from __future__ import annotations

import logging
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, TensorBoardStatsHandler, from_engine
from monai.utils import CommonKeys
from torch import Tensor, nn

from simcvd_bundle.losses.weighted import WeightedTerms
from simcvd_bundle.training.progress import ProgressHandler


class LossTermsHandler:
    """Leave the loss, its terms and weights by name as the trainer's output.

    MONAI's logging handlers, MLflow's by the ``tracking`` switch among them, take the output's ``loss`` and log every
    entry of it under its own name: ``loss``, ``loss_NAME`` (unweighted) and ``weight_NAME``. Predictions are dropped,
    so that they do not outlive the step. Values stay on the device until a handler logs them.

    Args:
        loss: the loss of the trainer.
    """

    def __init__(self, loss: WeightedTerms) -> None:
        self.loss = loss
        self.terms: dict[str, Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register on a trainer with ``decollate=False``; a hook of each term's module tells its value."""
        for name, term in self.loss.losses.items():
            term.register_forward_hook(self._remember(name))
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def _remember(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.terms[name] = output.detach()

        return hook

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Replace the output of this iteration."""
        output: Any = engine.state.output
        weights, terms, self.terms = self.loss.current_weights(), self.terms, {}
        values = {
            "loss": output[CommonKeys.LOSS].detach(),
            **{f"loss_{name}": term for name, term in terms.items()},
            **{f"weight_{name}": weights[name] for name in terms},
        }
        engine.state.output = [{"loss": values}]


class LogsHandler:
    """Log to the console and TensorBoard; process 0 only.

    A trainer's loss, terms and weights are logged every ``interval`` iterations, with a progress bar and the expected
    end; an evaluator's metrics at the end of its run. The TensorBoard file is opened when the engine starts, in the
    folder that the run has prepared by then.

    Args:
        log_dir: folder of the TensorBoard files.
        name: what the engine does, for the progress bar and the name of the logger.
        interval: iterations between two logs of a trainer; ``None`` for an evaluator.

    Raises:
        ValueError: when ``interval`` is below 1.
    """

    def __init__(self, log_dir: str, name: str, interval: int | None = None) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f"log_interval must be an integer of at least 1, got {interval}.")
        self.log_dir = log_dir
        self.name = name
        self.interval = interval
        self.started = False

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, after ``LossTermsHandler``, or on an evaluator."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Open the logs, before the first of an evaluator's runs."""
        if self.started:
            return
        self.started = True
        loss = from_engine(["loss"], first=True)
        settings: dict[str, Any] = {"iteration_log": False}
        logger = f"simcvd_bundle.{self.name}"
        if self.interval is not None:
            settings = {"iteration_log": self._due, "epoch_log": False, "output_transform": loss}
            ProgressHandler(self.name, logging.getLogger(logger)).attach(engine)
        StatsHandler(name=logger, **settings).attach(engine)
        TensorBoardStatsHandler(log_dir=self.log_dir, **settings).attach(engine)

    def _due(self, engine: Engine, iteration: int) -> bool:
        return iteration % (self.interval or 1) == 0
