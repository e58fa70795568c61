"""Checks of a GPU that measure: bare passes, kernels, the loader, whole scans."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import GIB, synchronize
from gpu_machine import PRECISIONS, Machine
from ignite.engine import Engine, Events
from torch.profiler import ProfilerActivity, profile
from train_step import Floor

from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.networks.vnet import VNet


def check_step(machine: Machine) -> dict[str, str]:
    """Milliseconds and memory of the bare passes: layouts, precisions, cuDNN's two switches."""
    rows = {}
    images = torch.randn(4, 1, *machine.patch, device=machine.device)
    layouts = {"channels last": torch.channels_last_3d, "contiguous": torch.contiguous_format}
    cases = [(*case, True) for case in itertools.product(layouts, PRECISIONS)]
    cases += [(layout, "float32", False) for layout in layouts]
    for (layout, precision, tf32), (exact, search) in itertools.product(cases, ((1, 0), (0, 0), (0, 1), (1, 1))):
        flags = {"deterministic": bool(exact), "benchmark": bool(search), "allow_tf32": tf32}
        torch.manual_seed(0)
        networks = [
            VNet(base_channels=machine.channels).to(machine.device, memory_format=layouts[layout]) for _ in range(2)
        ]  # type: ignore[call-overload]
        floor = Floor(networks[0], networks[1], images, 2, precision)
        name = f"{layout}, {precision}{'' if tf32 else ' without TF32'}, deterministic {exact}, benchmark {search}"
        with torch.backends.cudnn.flags(enabled=True, **flags):
            rows[name] = _timed(floor, machine)
    return rows


def _timed(step: Callable[[], None], machine: Machine) -> str:
    try:
        for _ in range(machine.steps // 2):
            step()
        if machine.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(machine.steps):
            synchronize()
            begin = time.perf_counter()
            step()
            synchronize()
            times.append(time.perf_counter() - begin)
    except RuntimeError as error:  # a combination that cuDNN has no algorithm for
        return f"failed: {error}".splitlines()[0]
    peak = torch.cuda.max_memory_allocated() / GIB if machine.device == "cuda" else 0.0
    return f"{1000 * statistics.median(times):.1f} ms, {peak:.2f} GiB"


def check_kernels(machine: Machine) -> dict[str, str]:
    """The kernels that take most of a bare step; nchwToNhwc, convertTensor, copy_ and slow_conv are losses."""
    machine.need_cuda()
    network = VNet().to("cuda")
    step = Floor(network, VNet().to("cuda"), torch.randn(4, 1, *machine.patch, device="cuda"), 2, "bfloat16")
    for _ in range(5):
        step()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(5):
            step()
        synchronize()
    top = sorted(profiled.key_averages(), key=lambda event: -event.self_device_time_total)[:15]
    return {event.key[:90]: f"{event.self_device_time_total / 5000:.2f} ms a step" for event in top}


class Marks:
    """When a trainer asked for its batches, was given them, and ended its iterations."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.given: list[float] = []
        self.ends: list[float] = []

    def attach(self, trainer: Any) -> None:
        """Register on a trainer."""
        trainer.add_event_handler(Events.GET_BATCH_STARTED, self.mark, self.asked)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, self.mark, self.given)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.mark, self.ends)

    @staticmethod
    def mark(engine: Engine, times: list[float]) -> None:
        """Note the time."""
        times.append(time.perf_counter())


def check_loader(machine: Machine) -> dict[str, str]:
    """Milliseconds of an iteration, and what of it is waiting for data, by workers, copies and logging."""
    rows = {}
    choices = [(workers, True, 10) for workers in (2, 4, 8, 16)] + [(8, False, 10), (8, True, 1)]
    for workers, free, interval in choices if machine.device == "cuda" else [(1, True, 10)]:
        marks = Marks()
        machine.train(
            f"loader{workers}{free}{interval}", marks.attach, num_workers=workers, log_interval=interval,
            iterations=10 * machine.steps, epoch_length=10 * machine.steps, precision="auto",
            **{"train::trainer::non_blocking": free},
        )  # fmt: skip
        half = len(marks.ends) // 2
        whole = (marks.ends[-1] - marks.ends[half - 1]) / (len(marks.ends) - half)
        waits = [given - asked for asked, given in zip(marks.asked, marks.given, strict=False)][half:]
        name = f"{workers} workers, non_blocking {free}, log_interval {interval}"
        rows[name] = f"{1000 * whole:.1f} ms, waiting {1000 * statistics.mean(waits):.2f} ms"
    return rows


def check_whole_scans(machine: Machine) -> dict[str, str]:
    """Seconds and memory of a scan of 512 x 512 x 300, and that a full GPU ends in windows and sums in main memory."""
    machine.need_cuda()
    image = torch.randn(1, 1, 512, 512, 300, device="cuda")
    network, rows = VNet().to("cuda").eval(), {}
    inferers = {
        mode: make_inferer(mode, [112, 112, 80], [56, 56, 40], with_sdm=True, precision="auto")
        for mode in ("fast", "window")
    }
    for limit in (1.0, 0.1):
        torch.cuda.set_per_process_memory_fraction(limit)
        for mode, inferer in inferers.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            with torch.no_grad():
                result = inferer(image, network)
            synchronize()
            rows[f"{mode}, {limit:.0%} of the memory"] = (
                f"{time.perf_counter() - begin:.1f} s, {torch.cuda.max_memory_allocated() / GIB:.1f} GiB"
            )
            assert result.device == image.device
            del result
    torch.cuda.set_per_process_memory_fraction(1.0)
    return rows
