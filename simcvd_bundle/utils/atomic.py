"""Files that are either the former ones or the complete new ones, never half written; and which ones they are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UNFINISHED = ".unfinished_"
"""How the names of unfinished files begin; a kill leaves them behind."""


@contextmanager
def atomically(path: Path, durable: bool = True) -> Iterator[Path]:
    """Give a path to write to, beside ``path`` and with its suffix; it takes the place of ``path`` if all went well.

    Args:
        path: the file to write; missing folders are made.
        durable: wait until the content is on the disk, so that a power failure leaves no empty file either.

    Yields:
        The path to write to. It is removed when the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}{os.getpid()}_{path.name}")
    try:
        yield unfinished
        if durable:
            with unfinished.open("r+b") as file:
                os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON."""
    with atomically(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4), encoding="utf-8")


def digest(path: str | Path) -> str:
    """SHA-256 of a file; empty without the file."""
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
