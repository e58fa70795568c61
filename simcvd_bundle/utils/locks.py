"""Files that several processes write to, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for ``file``, on any machine that shares its folder.

    A record lock, which the system takes back however the process ends; network file systems need them (NFS 4 has
    them). On Windows nothing is locked.

    Args:
        file: an empty file, made if missing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        if sys.platform != "win32":
            fcntl.lockf(stream, fcntl.LOCK_EX)
        yield
