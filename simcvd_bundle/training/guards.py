"""Guards of a training's numbers: gradient clipping, and a stop at a loss that is not finite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor

from simcvd_bundle.data.cases import case_name
from simcvd_bundle.data.iterations import IterationSampler


class FiniteLossHandler:
    """Stop the training when the loss is NaN or infinite, and say in which iteration, by which term and cases.

    On a GPU the losses stay there and are looked at together, every ``interval`` iterations and at the end of each
    epoch, so no iteration waits for the device; on CPU each is looked at at once. The end of the epoch comes before the
    checkpoint, which is therefore never written after such a loss.

    ignite's ``TerminateOnNan`` is not used: it waits for the device every iteration, names neither term nor case, and
    ends the run as if it were complete, so the weights would be exported.

    Args:
        sampler: sampler of the training loader; it knows the cases of each iteration.
        interval: iterations between two looks on a GPU; each waits for it.

    Raises:
        FloatingPointError: when a loss is not finite.
    """

    def __init__(self, sampler: IterationSampler, interval: int = 10) -> None:
        self.sampler = sampler
        self.interval = interval
        self.recent: list[tuple[int, Mapping[str, Tensor | float]]] = []

    def attach(self, engine: Engine) -> None:
        """Register on a trainer, after ``LossTermsHandler``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.check)

    def __call__(self, engine: Engine) -> None:
        """Remember the losses of this iteration."""
        output: Any = engine.state.output
        values = output[0]["loss"]
        self.recent.append((engine.state.iteration, values))
        if values["loss"].device.type == "cpu" or engine.state.iteration % self.interval == 0:
            self.check()

    def check(self) -> None:
        """Look at the losses since the last look."""
        recent, self.recent = self.recent, []
        if not recent:
            return
        finite = torch.stack([torch.as_tensor(values["loss"]) for _, values in recent]).isfinite().tolist()
        if all(finite):
            return
        iteration, values = recent[finite.index(False)]
        terms = ", ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        cases = dict.fromkeys(case_name(self.sampler.cases[index.case]) for index in self.sampler.batch(iteration - 1))
        raise FloatingPointError(
            f"The loss is not finite at iteration {iteration}: {terms}. Cases: {', '.join(cases)}. "
            "Checkpoints written before are good. Look at these cases, or start anew with a lower learning_rate, with "
            "max_grad_norm (1.0, say), or with precision float32."
        )


class GradientClippingHandler:
    """Scale the gradient down to a largest norm before the optimiser's step.

    MONAI has no handler for it.

    Args:
        max_norm: largest Euclidean norm of the gradient of all parameters together.

    Raises:
        ValueError: when it is not positive.
    """

    def __init__(self, max_norm: float) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_grad_norm must be positive (or null for no clipping), got {max_norm}.")
        self.max_norm = max_norm

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register on a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Clip the gradient of the optimiser's parameters."""
        if engine.scaler is not None:  # float16: the norm is that of the gradient, not of the scaled one
            engine.scaler.unscale_(engine.optimizer)
        parameters = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
