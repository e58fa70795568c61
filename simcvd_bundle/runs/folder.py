"""Beginning and end of a training run: what stays of a former run, and what this one leaves behind."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from monai.engines import Evaluator, Trainer
from torch import nn

from simcvd_bundle.runs.tracking import Tracking
from simcvd_bundle.runs.weights import export_weights
from simcvd_bundle.utils.atomic import UNFINISHED
from simcvd_bundle.utils.distributed import from_rank_0

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

RUN_FILES = ("checkpoints", "tensorboard", "model.pt")
_locks: dict[Path, IO[str]] = {}
"""Open lock files by folder: closing one would give its lock back."""


def start_run(output_dir: str, ckpt_dir: str, resume: bool = False) -> str:
    """Prepare the folder of a run; what a former run wrote there moves to ``output_dir/previous_N`` unless resumed.

    The folder is this process's until it ends. Unfinished files of a killed run are removed.

    Args:
        output_dir: folder of the run.
        ckpt_dir: folder of the bundle's weights, which ``finish_run`` will need.
        resume: the run continues in the folder as it is.

    Returns:
        ``output_dir``; who takes the folder from here cannot write to it before it is prepared.

    Raises:
        OSError: when a folder cannot be written, or another process trains in ``output_dir``.
    """
    from_rank_0(lambda: _prepare_folder(Path(output_dir), Path(ckpt_dir), resume))
    return output_dir


def _prepare_folder(folder: Path, ckpt_dir: Path, resume: bool) -> None:
    make_writable(ckpt_dir, "ckpt_dir")
    make_writable(folder, "output_dir")
    lock_folder(folder)
    for file in (*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"checkpoints/{UNFINISHED}*")):
        file.unlink()
    former = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if former and not resume:
        number = 1 + max((int(p.name.split("_")[1]) for p in folder.glob("previous_[0-9]*")), default=0)
        kept = folder / f"previous_{number}"
        kept.mkdir()
        for path in former:
            path.rename(kept / path.name)
        logger.info("Kept the former run of %s as %s (to continue it instead: resume).", folder, kept)


def make_writable(folder: Path, name: str) -> None:
    """Make a folder if it is missing.

    Args:
        folder: the folder.
        name: config id that it comes from.

    Raises:
        OSError: when it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{name} {folder} cannot be written ({error}): choose another --{name}.") from error


def lock_folder(folder: Path) -> None:
    """Take a folder for this process until it ends, however it ends: the system gives a dead process's lock back.

    A record lock (``lockf``) rather than ``flock``, as the loader's workers would inherit that and hold it for seconds
    after a kill of their parent. Without record locks (Windows) nothing is locked.

    Raises:
        BlockingIOError: when another process has the folder.
    """
    if sys.platform == "win32":
        return
    folder = folder.resolve()
    if folder in _locks:
        return
    file = (folder / ".lock").open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise BlockingIOError(
            f"{owner} is training in {folder}: wait for it, stop it, or choose another --output_dir."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} of {os.uname().nodename}")
    file.flush()
    _locks[folder] = file


def finish_run(
    trainer: Trainer, network: nn.Module, evaluators: dict[str, Evaluator], output_dir: str, ckpt_dir: str,
    tracked: Tracking,
) -> None:  # fmt: skip
    """Write the student's weights and say how it ended.

    Args:
        trainer: the trainer, after its run.
        network: the student (not its DDP wrapper).
        evaluators: validation engines by the name of the network that they validate; those without data are passed
            over, the others run once more if the last epoch was not validated.
        output_dir: folder of the run.
        ckpt_dir: folder of the bundle's weights.
        tracked: experiment tracking, which gets the weights and ends.
    """
    with tracked.closed_by_errors():
        for name, evaluator in evaluators.items():
            if len(evaluator.data_loader.dataset) == 0:  # type: ignore[union-attr, arg-type]
                continue
            if evaluator.state.epoch != trainer.state.epoch:
                evaluator.run(trainer.state.epoch)
            state: Any = evaluator.state
            logger.info(
                "Validation Dice of the %s after %d iterations: %.4f (best %.4f at epoch %d)",
                name,
                trainer.state.iteration,
                state.metrics[state.key_metric_name],
                state.best_metric,
                state.best_metric_epoch,
            )
        weights = from_rank_0(lambda: export_weights(network, output_dir, ckpt_dir))
        logger.info("Wrote the student's weights: %s (and %s)", weights, Path(output_dir, "model.pt"))
        logger.info("Wrote checkpoints and TensorBoard logs: %s", output_dir)
    tracked.finish(str(Path(output_dir, "model.pt")))
