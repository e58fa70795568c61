"""The life of a run: what happens around the engines of a training or an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.engines import Evaluator, Trainer

from simcvd_bundle.runs.checkpoints import BestMetric, RunCheckpoint
from simcvd_bundle.runs.config import RunSettings
from simcvd_bundle.runs.cost import CostHandler
from simcvd_bundle.runs.folder import prepare_folder
from simcvd_bundle.runs.tracking import Tracking
from simcvd_bundle.runs.watching import FallingMetric, LatestNetwork
from simcvd_bundle.runs.weights import export_weights, load_pretrained
from simcvd_bundle.utils.devices import log_device
from simcvd_bundle.utils.distributed import from_rank_0
from simcvd_bundle.utils.memory import keep_freed_memory
from simcvd_bundle.utils.workers import worker_errors

logger = logging.getLogger(__name__)


class Lifecycle:
    """Train or evaluate, with all that a run needs before and leaves behind.

    Args:
        output_dir: folder of the run.
        ckpt_dir: folder of the bundle's weights.
        resume: continue the run in ``output_dir`` from its newest checkpoint.
        pretrained: weights or checkpoint to start from, see ``load_pretrained``; not read again by a resumed run.
        checkpoint_interval: epochs between two checkpoints.
        handlers: the handlers of all engines, see ``Tracking``.
    """

    def __init__(
        self,
        output_dir: str,
        ckpt_dir: str,
        resume: bool = False,
        pretrained: str | None = None,
        checkpoint_interval: int = 1,
        handlers: Sequence[Any] = (),
    ) -> None:
        self.output_dir = output_dir
        self.ckpt_dir = ckpt_dir
        self.resume = resume
        self.pretrained = pretrained
        self.checkpoint_interval = checkpoint_interval
        self.handlers = handlers

    def train(self, trainer: Trainer, evaluators: Mapping[str, Evaluator], checkpoint: Mapping[str, Any]) -> None:
        """Train, validate once more if the last epoch was not validated, and write the student's weights.

        Args:
            trainer: the trainer.
            evaluators: validation engines by the name of the network that they validate; those without data are passed
                over.
            checkpoint: what checkpoints hold besides, by name: ``student``, a ModuleDict whose ``network`` is the
                result, and anything else with ``state_dict`` and ``load_state_dict``.

        Raises:
            OSError: when a folder or file cannot be written, or another process trains in ``output_dir``.
            ValueError: when weights or checkpoints do not fit.
        """
        keep_freed_memory()
        log_device("Training", trainer)
        prepare_folder(self.output_dir, self.ckpt_dir, self.resume)
        if not self.resume:
            load_pretrained(checkpoint["student"], self.pretrained)
        loader: Any = trainer.data_loader
        objects = {
            "settings": RunSettings(loader.dataset.data),
            **checkpoint,
            **{f"{name}_best_metric": BestMetric(evaluator) for name, evaluator in evaluators.items()},
        }
        folder = f"{self.output_dir}/checkpoints"
        RunCheckpoint(folder, objects, self.checkpoint_interval, resume=self.resume).attach(trainer)
        network = checkpoint["student"]["network"]
        LatestNetwork(network, self.output_dir, self.checkpoint_interval).attach(trainer)
        CostHandler(checkpoint["student"], self.output_dir).attach(trainer)
        self._watch(trainer, evaluators)
        missing = loader.dataset.missing_classes()
        if missing:
            logger.warning(
                "No labelled training case has a voxel of class %s of class_names, so the network cannot learn it: "
                "add a label with it, or remove the class.", ", ".join(map(str, missing)),
            )  # fmt: skip
        with Tracking(self.handlers) as tracking, worker_errors():
            tracking.run(trainer)
            for name, evaluator in evaluators.items():
                self._validate(name, evaluator, trainer)
            weights = from_rank_0(lambda: export_weights(network, self.output_dir, self.ckpt_dir))
            written = Path(self.output_dir, "model.pt")
            tracking.log_files(written)
            logger.info("Wrote the trained weights: %s", " and ".join(dict.fromkeys([weights, str(written)])))
            logger.info("Wrote checkpoints and TensorBoard logs: %s", self.output_dir)

    def evaluate(self, evaluator: Evaluator) -> None:
        """Evaluate; the evaluator's ``EvaluationReport`` writes to ``output_dir``.

        Args:
            evaluator: the evaluator.
        """
        keep_freed_memory()
        log_device("Evaluating", evaluator)
        with Tracking(self.handlers) as tracking, worker_errors():
            tracking.run(evaluator)
            tracking.log_files(Path(self.output_dir, "per_case.csv"), Path(self.output_dir, "summary.json"))

    def _watch(self, trainer: Trainer, evaluators: Mapping[str, Evaluator]) -> None:
        """Say what watches the training, and let it say when the validation falls."""
        watched = {name: evaluator for name, evaluator in evaluators.items() if _cases(evaluator)}
        for name, evaluator in watched.items():
            FallingMetric(name, trainer).attach(evaluator)
        if not watched:
            logger.info(
                "No validation cases: nothing tells overfitting or a collapse but %s/latest/panel.png. A section "
                "`validation` in the datalist of at least one labelled subject does.", self.output_dir,
            )  # fmt: skip

    @staticmethod
    def _validate(name: str, evaluator: Evaluator, trainer: Trainer) -> None:
        if not _cases(evaluator):
            return
        if evaluator.state.epoch != trainer.state.epoch:
            evaluator.run(trainer.state.epoch)
        state: Any = evaluator.state
        metric = "Dice" if state.key_metric_name.endswith("dice") else state.key_metric_name
        logger.info(
            "Validation %s of the %s after %d iterations: %.4f (best %.4f at epoch %d)",
            metric, name, trainer.state.iteration, state.metrics[state.key_metric_name], state.best_metric,
            state.best_metric_epoch,
        )  # fmt: skip


def _cases(evaluator: Evaluator) -> int:
    return len(evaluator.data_loader.dataset)  # type: ignore[union-attr, arg-type]
