"""Workers of data loaders that fail for want of memory: what happened, and the remedy."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps the memory by which workers hand over their batches."""
SEGMENT = "</torch_"
"""How the name of a segment of shared memory begins in torch's errors."""
CANNOT = "The workers of the data loader cannot hand over their batches"


@contextmanager
def cannot_hand_over(about: str = "") -> Iterator[None]:
    """Name the remedy when a worker cannot hand over a batch.

    Args:
        about: text that the error must have to be one of this kind.

    Raises:
        RuntimeError: instead of errors of the system.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if about not in str(error):
            raise
        raise RuntimeError(_remedy(error)) from error


@contextmanager
def ended_meanwhile() -> Iterator[None]:
    """Name the worker where it was ended while its batch was fetched.

    The connection breaks a moment before torch can see that the process is gone, and torch then passes the system's
    error on as it is.

    Raises:
        RuntimeError: that :func:`worker_errors` knows, instead of errors of a connection.
    """
    try:
        yield
    except (ConnectionError, EOFError) as error:
        raise RuntimeError(f"DataLoader worker exited unexpectedly, its connection broke: {error!r}") from error


@contextmanager
def worker_errors() -> Iterator[None]:
    """Say what to do when workers of a data loader cannot hand over batches, or were ended by the system.

    Raises:
        RuntimeError: with the remedy; other errors pass as they are.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = str(error)
        if CANNOT in text:  # torch puts the worker's traceback before it
            raise RuntimeError(text[text.rindex(CANNOT) :].strip()) from error
        if "shared memory" in text or _no_room_for_queues(error):
            raise RuntimeError(_remedy(error)) from error
        if "DataLoader worker" in text and ("killed by signal" in text or "exited unexpectedly" in text):
            raise RuntimeError(
                f"A worker of the data loader was ended from outside ({text.splitlines()[0]}), most often because the "
                "memory was full: use fewer workers or none (--num_workers 0), or a machine with more memory."
            ) from error
        raise


def _remedy(error: Exception) -> str:
    text = f"{CANNOT} ({error})"
    if isinstance(error, OSError) and not _no_room_for_queues(error):
        return (
            f"{text}: their sockets lie in {tempfile.gettempdir()}, so set TMPDIR to a folder with a short name that "
            "can be written and has free space, or load without workers (--num_workers 0)."
        )
    size = "is missing"
    if SHARED_MEMORY.is_dir():
        size = f"has {shutil.disk_usage(SHARED_MEMORY).total / 2**20:.0f} MiB"
    return (
        f"{text}: {SHARED_MEMORY} {size}. Give more shared memory (docker run --shm-size=8g; by default a container "
        "has 64 MiB), or load without workers (--num_workers 0, also --validate::dataloader::num_workers 0 where that "
        "was set)."
    )


def _no_room_for_queues(error: Exception) -> bool:
    """Whether the loader could not even make its queues; the system's error is that of a full disk."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC and SHARED_MEMORY.is_dir()
    return full and shutil.disk_usage(SHARED_MEMORY).free < 2**20
