"""The folder of a run: what stays of a former run, and whose it is."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import IO

from simcvd_bundle.utils.atomic import UNFINISHED
from simcvd_bundle.utils.distributed import from_rank_0

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

COST = "cost.json"
RUN_FILES = ("checkpoints", "tensorboard", "latest", "model.pt", COST)
_locks: dict[Path, IO[str]] = {}
"""Open lock files by folder: closing one would give its lock back."""


def prepare_folder(output_dir: str, ckpt_dir: str, resume: bool = False) -> None:
    """Prepare the folder of a run; what a former run wrote there moves to ``output_dir/previous_N`` unless resumed.

    The folder is this process's until it ends. Unfinished files of a killed run are removed.

    Args:
        output_dir: folder of the run.
        ckpt_dir: folder of the bundle's weights, which the end of the run will need.
        resume: the run continues in the folder as it is.

    Raises:
        OSError: when a folder cannot be written, or another process trains in ``output_dir``.
    """
    from_rank_0(lambda: _prepare(Path(output_dir), Path(ckpt_dir), resume))


def _prepare(folder: Path, ckpt_dir: Path, resume: bool) -> None:
    make_writable(ckpt_dir, "ckpt_dir")
    make_writable(folder, "output_dir")
    lock_folder(folder)
    for part in (folder, folder / "checkpoints", folder / "latest"):
        for file in part.glob(f"{UNFINISHED}*"):
            file.unlink()
    former = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if former and not resume:
        numbers = (re.fullmatch(r"previous_([0-9]+)", path.name) for path in folder.iterdir())
        number = 1 + max((int(found[1]) for found in numbers if found), default=0)
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


def folder_owner(folder: Path) -> str | None:
    """The process that has a folder, as ``lock_folder`` noted it; ``None`` when there is none, and on Windows."""
    file = folder / ".lock"
    if sys.platform == "win32" or not file.is_file():
        return None
    with file.open("r+") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when the file closes
        except OSError:
            return lock.read().strip() or "another process"
    return None
