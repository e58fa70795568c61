"""What a training costs: time of an iteration, memory, parameters."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import nn

from simcvd_bundle.networks.extra import EXTRA
from simcvd_bundle.runs.folder import COST
from simcvd_bundle.utils.atomic import write_json
from simcvd_bundle.utils.memory import peak_memory


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
        peak = peak_memory(device)
        written = (p for name, p in self.student["network"].named_parameters() if not name.startswith(EXTRA))
        content: dict[str, Any] = {
            "seconds_per_iteration": median(self.seconds),
            "epochs": len(self.seconds),
            "peak_memory_mib": None if peak is None else peak / 2**20,
            "device": device.type,
            "trained_parameters": sum(p.numel() for p in self.student.parameters() if p.requires_grad),
            "network_parameters": sum(p.numel() for p in written),
        }
        write_json(self.path, content)
