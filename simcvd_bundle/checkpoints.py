"""Checkpoints of a run: everything needed to continue as if nothing had happened."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

from simcvd_bundle.processes import from_rank_0

logger = logging.getLogger(__name__)


class BestMetric:
    """The best validation metric so far of an evaluator, as a part of a checkpoint."""

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator

    def state_dict(self) -> dict[str, float]:
        """Best metric and its epoch."""
        state: Any = self.evaluator.state
        return {"best_metric": float(state.best_metric), "best_metric_epoch": int(state.best_metric_epoch)}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Put them back."""
        for name, value in state.items():
            setattr(self.evaluator.state, name, value)


class RunCheckpoint:
    """Write ``checkpoint_ITERATION.pt`` files and continue from the newest complete one.

    Files are written under another name and renamed when complete (ignite's ``DiskSaver``), so none is ever half
    written. ignite's handler is used rather than MONAI's ``CheckpointSaver``, whose final save also happens in the
    middle of a failing iteration. Process 0 writes and reads, and sends what it read to the others, whose machines need
    not have the files; a run may be resumed with another number of processes.

    Args:
        folder: where the files lie.
        objects: what to save besides the trainer, by name: anything with ``state_dict`` and ``load_state_dict``.
        interval: epochs between two files; the end of the training is always saved.
        keep: number of files to keep.
        resume: continue from the newest file.

    Raises:
        FileNotFoundError: at the start of a run that is to be resumed when there is no file.
        ValueError: when no file can be read, or they belong to another configuration.
    """

    def __init__(
        self, folder: str, objects: Mapping[str, Any], interval: int = 1, keep: int = 2, resume: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.interval = interval
        self.keep = keep
        self.resume = resume

    def attach(self, trainer: Engine) -> None:
        """Register on a trainer, after all its other handlers: loading comes last at the start."""
        to_save = {**self.objects, "trainer": trainer}
        saver = Checkpoint(
            to_save,
            DiskSaver(str(self.folder), require_empty=False),
            n_saved=self.keep,
            global_step_transform=lambda engine, _: engine.state.iteration,
            include_self=True,
        )
        if self.resume:
            trainer.add_event_handler(Events.STARTED, self._load, {**to_save, "checkpointer": saver})
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, saver)

    def files(self) -> list[Path]:
        """Checkpoints, newest first."""
        found = {path: re.fullmatch(r"checkpoint_(\d+)\.pt", path.name) for path in self.folder.glob("*.pt")}
        return sorted((p for p, m in found.items() if m), key=lambda p: int(p.stem.split("_")[1]), reverse=True)

    def _load(self, trainer: Engine, to_load: dict[str, Any]) -> None:
        path, content = from_rank_0(self._newest)
        self._restore(trainer, to_load, content, path)
        logger.info("Resumed from %s at iteration %d.", path, trainer.state.iteration)

    def _newest(self) -> tuple[Path, dict[str, Any]]:
        files = self.files()
        if not files:
            raise FileNotFoundError(f"No checkpoint to resume in {self.folder}: set output_dir, or leave resume out.")
        for path in files:
            try:
                return path, torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever a damaged file raises
                logger.warning("The checkpoint %s cannot be read (%s); trying the one before.", path, error)
        raise ValueError(f"None of the {len(files)} checkpoints in {self.folder} can be read.")

    @staticmethod
    def _restore(trainer: Engine, to_load: dict[str, Any], content: dict[str, Any], path: Path) -> None:
        max_epochs, epoch_length = trainer.state.max_epochs, trainer.state.epoch_length
        saved_length = content.get("trainer", {}).get("epoch_length")
        if saved_length != epoch_length:
            raise ValueError(
                f"The checkpoint {path} comes from a run with epoch_length {saved_length}, not {epoch_length}: "
                "resume with the configuration that the run was started with."
            )
        try:
            Checkpoint.load_objects(to_load, content)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ValueError(
                f"The checkpoint {path} does not fit this configuration: "
                f"resume with the one that the run was started with. {error}"
            ) from error
        trainer.state.max_epochs = max_epochs
