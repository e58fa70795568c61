"""What all rooms use: files, processes, errors, precision, memory."""

from simcvd_bundle.utils.distributed import join, leave
from simcvd_bundle.utils.memory import keep_freed_memory
from simcvd_bundle.utils.shares import own_device

__all__ = ["join", "keep_freed_memory", "leave", "own_device"]
