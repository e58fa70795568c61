"""Checkpoints of a run: everything needed to continue as if nothing had happened."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from monai.engines import Trainer

from simcvd_bundle.runs.weights import write_tensors
from simcvd_bundle.utils.distributed import from_rank_0

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


class LossScale:
    """The loss scale of float16 training, as a part of a checkpoint; MONAI makes the scaler when the run starts."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """State of the scaler; empty without one."""
        return self.trainer.scaler.state_dict() if self.trainer.scaler else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back."""
        if self.trainer.scaler and state:  # none was saved where the run was begun without one, on CPU
            self.trainer.scaler.load_state_dict(dict(state))


class RunCheckpoint:
    """Write ``checkpoint_ITERATION.pt`` files and continue from the newest complete one.

    Files take their names when they are complete, so none is ever half written, and older ones are removed after that,
    so a full disk or a kill never costs the last good one. Numbers that are not finite are never written. ignite's
    handler is used rather than MONAI's ``CheckpointSaver``, whose final save also happens in the middle of a failing
    iteration; the files are written and removed here, because ignite's ``DiskSaver`` removes the oldest one first, and
    resuming after a kill between the two fails on the missing file.
    Process 0 writes and reads, and sends what it read to the others, whose machines need not have the files; a run may
    be resumed with another number of processes.

    Args:
        folder: where the files lie.
        objects: what to save besides the trainer, by name: anything with ``state_dict`` and ``load_state_dict``. They
            are loaded in this order.
        interval: epochs between two files; the end of the training is always saved.
        keep: number of files to keep.
        resume: continue from the newest file.

    Raises:
        FileNotFoundError: at the start of a run that is to be resumed when there is no file.
        ValueError: when no file can be read, or they belong to another configuration.
        OSError: when a file cannot be written.
        FloatingPointError: when what is to be saved holds NaN or infinite numbers.
    """

    def __init__(
        self, folder: str, objects: Mapping[str, Any], interval: int = 1, keep: int = 2, resume: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.interval = interval
        self.keep = keep
        self.resume = resume
        self.written: Path | None = None

    def attach(self, trainer: Trainer) -> None:
        """Register on a trainer, after all its other handlers: loading comes last at the start."""
        to_save = {**self.objects, "loss_scale": LossScale(trainer), "trainer": trainer}
        saver = Checkpoint(
            to_save, self._write, n_saved=None, global_step_transform=lambda engine, _: engine.state.iteration
        )
        if self.resume:
            trainer.add_event_handler(Events.STARTED, self._load, to_save)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, saver)

    def files(self) -> list[Path]:
        """Checkpoints, newest first."""
        found = {path: re.fullmatch(r"checkpoint_(\d+)\.pt", path.name) for path in self.folder.glob("*.pt")}
        return sorted((p for p, m in found.items() if m), key=_iteration, reverse=True)

    def _write(self, checkpoint: Mapping[str, Any], filename: str, metadata: Mapping[str, Any] | None = None) -> None:
        path = self.folder / filename
        if idist.get_rank() != 0 or path == self.written:  # the last epoch may end on a checkpoint
            return
        bad = [name for name, tensor in _tensors(checkpoint) if not torch.isfinite(tensor).all()]
        if bad:
            raise FloatingPointError(
                f"At iteration {_iteration(path)} {bad[0]} and {len(bad) - 1} other tensors hold NaN or infinite "
                f"numbers, so {path} is not written. {self._remedy()}"
            )
        try:
            write_tensors(path, checkpoint)
        except (OSError, RuntimeError) as error:  # torch turns some errors of the disk into RuntimeErrors
            raise OSError(f"The checkpoint {path} cannot be written ({error}). {self._remedy()}") from error
        self.written = path
        for former in [file for file in self.files() if _iteration(file) <= _iteration(path)][self.keep :]:
            former.unlink(missing_ok=True)

    def _remedy(self) -> str:
        kept = self.files()
        if not kept:
            return "There is no former checkpoint."
        return f"The former checkpoint {kept[0]} is kept: mend the cause and repeat the command with --resume True."

    def _load(self, trainer: Engine, to_load: dict[str, Any]) -> None:
        path, content = from_rank_0(self._newest)
        self._restore(trainer, to_load, content, path)
        self.written = path
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
        raise ValueError(
            f"None of the {len(files)} checkpoints in {self.folder} can be read: put back a copy, or leave "
            "resume out to start anew."
        )

    @staticmethod
    def _restore(trainer: Engine, to_load: dict[str, Any], content: Any, path: Path) -> None:
        max_epochs, epoch_length = trainer.state.max_epochs, trainer.state.epoch_length
        try:
            Checkpoint.load_objects(to_load, content)
            saved_length = content["trainer"]["epoch_length"]
            if saved_length != epoch_length:
                raise ValueError(f"epoch_length was {saved_length} and is now {epoch_length}.")
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"The checkpoint {path} does not fit this configuration: "
                f"resume with the one that the run was started with, or leave resume out to start anew. {error}"
            ) from error
        trainer.state.max_epochs = max_epochs


def _iteration(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Floating-point tensors of nested dicts and lists, with their names."""
    if isinstance(content, torch.Tensor) and content.is_floating_point():
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _tensors(value, f"{name}.{number}")
