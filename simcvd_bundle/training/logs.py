"""What is logged of a run: the loss and its terms, metrics, progress."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import ignite.distributed as idist
import torch
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


TOGETHER = 10
"""Iterations whose values are fetched from the device at once."""


class LogsHandler:
    """Log to the console and TensorBoard; process 0 only.

    A trainer's loss, terms and weights are logged every ``interval`` iterations, with a progress bar and the expected
    end; an evaluator's metrics at the end of its run. The values stay on the device until ``TOGETHER`` iterations have
    passed or the epoch ends: MONAI's handlers, fed at every iteration, would let it wait for each value. The
    TensorBoard file is opened when the engine starts, in the folder that the run has prepared by then.

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
        self.handlers: list[Any] = []
        self.waiting: list[tuple[dict[str, Any], Mapping[str, Tensor | float]]] = []

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, after ``LossTermsHandler``, or on an evaluator."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Open the logs, before the first of an evaluator's runs."""
        if self.handlers:
            return
        settings: dict[str, Any] = {"iteration_log": False, "epoch_log": self.interval is None}
        if self.interval is not None:
            settings["output_transform"] = from_engine(["loss"], first=True)
            ProgressHandler(self.name).attach(engine)
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=TOGETHER) | Events.EPOCH_COMPLETED, self.write)
        # MONAI cuts the logger of this name off from its parents, so it is none of the package's.
        self.handlers.append(StatsHandler(name=self.name, **settings))
        self.handlers.append(TensorBoardStatsHandler(log_dir=self.log_dir, **settings))
        for handler in self.handlers:
            handler.attach(engine)

    def __call__(self, engine: Engine) -> None:
        """Remember the values of this iteration."""
        output: Any = engine.state.output
        where = {name: getattr(engine.state, name) for name in ("iteration", "epoch", "epoch_length", "max_epochs")}
        self.waiting.append((where, output[0]["loss"]))

    def write(self) -> None:
        """Fetch the values that wait, and let MONAI's handlers write them as those of their iterations."""
        waiting, self.waiting = self.waiting, []
        tensors = [value for _, values in waiting for value in values.values() if isinstance(value, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else [])
        for where, values in waiting:
            fetched = {name: next(numbers) if isinstance(v, Tensor) else v for name, v in values.items()}
            past: Any = SimpleNamespace(state=SimpleNamespace(output=[{"loss": fetched}], **where))
            for handler in self.handlers:
                handler.iteration_completed(past)
