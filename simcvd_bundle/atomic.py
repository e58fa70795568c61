"""Files that are either the former ones or the complete new ones, never half written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside ``path`` and with its suffix; it takes the place of ``path`` if all went well.

    Args:
        path: the file to write; missing folders are made.

    Yields:
        The path to write to. It is removed when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished_{os.getpid()}_{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
