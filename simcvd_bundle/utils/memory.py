"""How the process keeps its memory: the allocator setting that CPU training needs, and what it came to."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

if sys.platform != "win32":
    import resource

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt`` (malloc.h)."""
TOP_PAD = 256 << 20
_foreign = ContextVar("_foreign", default=False)


@contextmanager
def allocator_kept() -> Iterator[None]:
    """Meanwhile ``keep_freed_memory`` does nothing: it cannot be undone, so it is not for a caller's process."""
    token = _foreign.set(True)
    try:
        yield
    finally:
        _foreign.reset(token)


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep freed memory for the next allocation instead of returning it to the system.

    By default every activation of more than 32 MiB is mapped when it is made and unmapped when it is freed, and the
    system clears each page of it anew: about a third of a training step on CPU (``docs/performance.md``). The
    environment variables ``MALLOC_MMAP_MAX_=0`` and so on do the same, but have to be set before the process starts.

    Returns:
        Whether the setting was made; it is not without glibc (macOS, Windows, musl) and inside ``allocator_kept``.
    """
    if sys.platform != "linux" or _foreign.get():
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory in bytes.

    Args:
        device: what is computed on.

    Returns:
        That of torch on the GPU, or else of this process; ``None`` on Windows, which has no such count.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
