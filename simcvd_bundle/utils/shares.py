"""Which part of the work is this process's, when several share it without talking to each other."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

T = TypeVar("T")

LAUNCHERS = {"torchrun": ("RANK", "WORLD_SIZE"), "SLURM": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}
"""Variables of a process's rank and of their number. ``srun`` alone sets the last: in a batch script that has asked for
several tasks, but starts one process, it is not there, and the process does all."""


def own_share(items: Sequence[T], share: str | None = None) -> list[T]:
    """Every N-th item, so that neighbours, which are often alike in size, go to different processes.

    Args:
        items: the same in all processes.
        share: ``"3/16"`` is the third of sixteen; ``None`` takes the rank that ``torchrun`` or ``srun`` gives, and all
            without them.

    Raises:
        ValueError: when the share, or the rank, is out of range or no share.
    """
    number, total, source = 1, 1, ""
    if share is not None:
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", str(share))
        number, total, source = (int(found[1]), int(found[2]), "share") if found else (0, 0, "share")
        if not 1 <= number <= total:
            raise ValueError(f"share is {share!r}, but must be 1/N to N/N, such as 3/16 for the third of 16 parts.")
    else:
        for launcher, names in LAUNCHERS.items():
            rank, size = (os.environ.get(name, "") for name in names)
            if rank.isdecimal() and size.isdecimal() and int(size) > 1:
                number, total, source = int(rank) + 1, int(size), launcher
                if number > total:
                    raise ValueError(f"{names[0]} is {rank}, but {names[1]} is {size}: unset both, or give --share.")
                break
    own = list(items[number - 1 :: total])
    if total > 1:
        logger.info("Share %d of %d (by %s): %d of %d.", number, total, source, len(own), len(items))
    return own


def own_device() -> torch.device:
    """The GPU of this process, by ``LOCAL_RANK`` or ``SLURM_LOCALID`` where several are visible; the CPU without."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = next((os.environ[n] for n in ("LOCAL_RANK", "SLURM_LOCALID") if os.environ.get(n, "").isdecimal()), "0")
    return torch.device("cuda", int(rank) % torch.cuda.device_count())
