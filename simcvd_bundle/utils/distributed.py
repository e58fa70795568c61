"""One training in several processes: joining them, what process 0 does for all, and rows gathered from all."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import ignite.distributed as idist
import torch
from torch import Tensor, distributed

from simcvd_bundle.utils.errors import show_root_cause

T = TypeVar("T")

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
REMEDY = (
    "start with `torchrun --nproc_per_node=N -m monai.bundle run ...`, or leave the file out to train in one process."
)


def join(backend: str) -> None:
    """Become one of the processes that ``torchrun`` has started, with the GPU of its number, where there are some.

    Args:
        backend: ``"nccl"`` for GPUs, ``"gloo"`` for CPUs and where there is no NCCL (Windows).

    Raises:
        RuntimeError: when the process was not started by ``torchrun`` (or with the variables that it sets, numbers
            where it sets numbers), or a machine has fewer GPUs than processes.
    """
    sys.excepthook = show_root_cause
    missing = [name for name in TORCHRUN_VARIABLES if not os.environ.get(name)]
    if missing:
        raise RuntimeError(
            f"configs/multi_gpu_train.json is for several processes, but {', '.join(missing)} are not set: {REMEDY}"
        )
    numbers = {name: os.environ[name] for name in TORCHRUN_VARIABLES if name != "MASTER_ADDR"}
    wrong = [f"{name}={value}" for name, value in numbers.items() if not value.isdecimal()]
    if wrong or int(numbers["RANK"]) >= int(numbers["WORLD_SIZE"]):
        wrong = wrong or [f"{name}={numbers[name]}" for name in ("RANK", "WORLD_SIZE")]
        raise RuntimeError(
            f"configs/multi_gpu_train.json is for process RANK, from 0, of WORLD_SIZE, but {', '.join(wrong)}: {REMEDY}"
        )
    local_rank = int(numbers["LOCAL_RANK"])
    if backend == "nccl" and local_rank >= torch.cuda.device_count():
        raise RuntimeError(
            f"Process {local_rank} of this machine (from 0) has no GPU, as {torch.cuda.device_count()} "
            "are visible: set --nproc_per_node to at most that number, or make more visible."
        )
    # its successor forward_sync_buffers is not in torch 2.12
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(backend, device_id=torch.device("cuda", local_rank) if backend == "nccl" else None)
    # in a SLURM job ignite takes SLURM's numbers for torchrun's: each process would be the first of its machine
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        idist.sync()
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


def leave() -> None:
    """Be a process by itself again, as the last thing before its end.

    gloo's threads drop the tensors of a collective after it has returned, for which they need the interpreter. One
    that still waits for it when the interpreter ends aborts the process ("terminate called without an active
    exception"), after all is done and written. So they get it for a moment.
    """
    time.sleep(0.2)
    distributed.destroy_process_group()


def from_rank_0(function: Callable[[], T]) -> T:
    """Call ``function`` in process 0 only; its result is returned, or its failure raised, in all processes.

    Files that only process 0 wrote need not be on the disks of other machines.

    Args:
        function: returns what can be pickled.

    Raises:
        Exception: in process 0 what ``function`` raised, in the others a ``RuntimeError`` with its message.
    """
    if idist.get_world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if idist.get_rank() == 0:
        try:
            outcome[0] = function()
        except Exception as caught:  # raised below, when the others know
            error = caught
            outcome[1] = str(caught)
    distributed.broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise RuntimeError(f"Process 0 failed: {outcome[1]}")
    result: T = outcome[0]
    return result


class _GatherRows(torch.autograd.Function):
    # torch.distributed.nn.functional.all_gather is deprecated, and its successors differ between torch 2.11 and 2.13

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.size = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        first = distributed.get_rank() * int(ctx.size)
        return total[first : first + ctx.size]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, with gradient.

    The gradient of a row is the sum of what all processes' losses send to it. With the mean over processes that
    ``DistributedDataParallel`` takes, parameters get the gradient of the mean of these losses.

    Args:
        rows: ``(N, ...)``, of one shape in all processes.

    Returns:
        ``(world_size * N, ...)``; ``rows`` itself when there is one process.
    """
    if idist.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered
