"""What is logged of a training step."""

from __future__ import annotations

from ignite.engine import Engine
from monai.engines.utils import IterationEvents

from simcvd_bundle.losses import SimCVDLoss


class LossTermsHandler:
    """Leave the loss, its terms and weights by name as the trainer's output.

    MONAI's logging handlers, MLflow's by the ``tracking`` switch among them, take the output's ``loss`` and log every
    entry of it under its own name. Predictions are dropped, so that they do not outlive the step. Values stay on the
    device until a handler logs them.

    Args:
        loss: the loss of the trainer.
    """

    def __init__(self, loss: SimCVDLoss) -> None:
        self.loss = loss

    def attach(self, engine: Engine) -> None:
        """Register on a trainer with ``decollate=False``."""
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Replace the output of this iteration."""
        engine.state.output = [{"loss": self.loss.log_values()}]  # type: ignore[assignment]
