"""What a training costs: time of an iteration, memory, parameters."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from simcvd_bundle.runs.folder import COST
from simcvd_bundle.runs.weights import plain_weights
from simcvd_bundle.utils.atomic import write_json

if sys.platform != "win32":
    import resource


class CostHandler:
    """Measure the iterations of this process, epoch by epoch, and write ``cost.json``.

    The time of an iteration is the median over epochs of an epoch's time by its iterations: loading counts, validation
    and checkpoints between epochs do not. Memory is the peak of the GPU's, or of this process without its loaders.

    Args:
        student: modules that are trained; ``network`` is the result.
        output_dir: folder of the run.
    """

    def __init__(self, student: nn.ModuleDict, output_dir: str) -> None:
        self.student = student
        self.path = Path(output_dir, COST)
        self.seconds: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register on a trainer; process 0 only."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self.write)

    def begin(self) -> None:
        """Begin an epoch."""
        self.began = time.monotonic()

    def __call__(self, engine: Engine) -> None:
        """Note the time of an epoch after its last iteration."""
        length = engine.state.epoch_length or 1
        if engine.state.iteration % length == 0:
            self.seconds.append((time.monotonic() - self.began) / length)

    def write(self) -> None:
        """Write what was measured; a run that had nothing left to do keeps its file."""
        if not self.seconds:
            return
        device = next(self.student.parameters()).device
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _peak_of_process()
        content: dict[str, Any] = {
            "seconds_per_iteration": median(self.seconds),
            "epochs": len(self.seconds),
            "peak_memory_mib": None if peak is None else peak / 2**20,
            "device": device.type,
            "trained_parameters": sum(p.numel() for p in self.student.parameters() if p.requires_grad),
            "network_parameters": _count(self.student["network"]),
        }
        write_json(self.path, content)


def _count(network: nn.Module) -> int:
    """Parameters of the network that the run writes: without those of further outputs."""
    kept = plain_weights(network)
    return sum(parameter.numel() for name, parameter in network.named_parameters() if name in kept)


def _peak_of_process() -> int | None:
    """Bytes; Linux counts in KiB, macOS in bytes, and Windows has no such count."""
    if sys.platform == "win32":
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
