"""Time of a SimCVD iteration beside its floor, the bare network passes that it cannot do without.

The floor is student forward and backward on 2 + 2 patches and teacher forward on 2, with the same networks, precision,
threads and allocator. The bundle's iteration runs as configured, loader and handlers included. Both are timed in turns
in one process: a few floor steps while the loader's queue is full and its workers idle, then as many iterations, each
of which makes the workers produce one batch. So noise of the machine meets both, and no data work hides in the floor.
Start-up and memory are measured in processes of their own.

    python benchmarks/train_step.py --config_file configs/data_la.json --dataset_dir DIR --json step.json
    python benchmarks/train_step.py --patch 48 48 32
"""

from __future__ import annotations

import copy
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import ROOT, in_new_process, parser, peak_memory, report, synchronize, workers_memory
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines.utils import IterationEvents
from monai.utils import set_determinism
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simcvd_bundle.data.phantoms import phantom_dataset
from simcvd_bundle.networks.vnet import VNet
from simcvd_bundle.utils.memory import keep_freed_memory
from simcvd_bundle.utils.precision import autocast

BLOCK = 20 if torch.cuda.is_available() else 3
"""Steps of one kind in a row. On a GPU more than the loader has prefetched (2 batches a worker), so that a loader that
is too slow shows."""


def bare_pass(network: nn.Module, images: torch.Tensor, precision: str, backward: bool) -> None:
    """Forward, with gradient and backward if asked for."""
    with torch.set_grad_enabled(backward), autocast(images, precision):
        outputs = list(network(images, return_all=True).entries().values())
    if backward:
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        network.zero_grad(set_to_none=True)


class Floor:
    """Student forward and backward on a batch, teacher forward on its unlabelled part."""

    def __init__(self, student: nn.Module, teacher: nn.Module, images: torch.Tensor, labeled: int, precision: str):
        self.student, self.teacher = student.train(), teacher.train().requires_grad_(False)
        self.images, self.labeled, self.precision = images, labeled, precision

    def __call__(self) -> None:
        """One step."""
        bare_pass(self.student, self.images, self.precision, backward=True)
        if len(self.images) > self.labeled:
            bare_pass(self.teacher, self.images[self.labeled :], self.precision, backward=False)


def bare_process(patch: list[int], precision: str, keep: bool, steps: int = 6) -> dict[str, float]:
    """Time, memory and page faults of floor steps alone, with glibc's own allocator settings or with ours."""
    if keep:
        keep_freed_memory()
    set_determinism(0)  # cuDNN's algorithms, and so its memory, are those of the training
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = VNet().to(device)
    floor = Floor(network, copy.deepcopy(network), torch.randn(4, 1, *patch, device=device), 2, precision)
    seconds, faults = [], []
    for _ in range(steps + 2):
        before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        floor()
        synchronize()
        seconds.append(time.perf_counter() - begin)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {
        "seconds": statistics.median(seconds[2:]),
        "page_faults": statistics.median(faults[2:]),
        "peak_gib": peak_memory(),
    }


def bundle(files: list[str], settings: dict[str, Any], iterations: int) -> ConfigWorkflow:
    """The initialised training workflow."""
    workflow = ConfigWorkflow(
        config_file=[str(ROOT / "configs" / "train.json"), *files],
        workflow_type="train",
        logging_file=False,
        **{**settings, "iterations": iterations, "epoch_length": iterations},
    )
    workflow.initialize()
    return workflow


def start_up(files: list[str], settings: dict[str, Any]) -> dict[str, float]:
    """Seconds from the start of the process to the first iteration, and peak memory of a few iterations."""
    import psutil

    workflow = bundle(files, settings, 4)
    begin = time.perf_counter()
    workflow.parser.get_parsed_content("train::dataset")
    caching = time.perf_counter() - begin
    trainer = workflow.parser.get_parsed_content("train::trainer")
    result = {"workers": 0.0}

    def first(engine: Engine) -> None:
        result["seconds"] = time.time() - psutil.Process().create_time()

    def sample(engine: Engine) -> None:
        result["workers"] = max(result["workers"], workers_memory())

    trainer.add_event_handler(Events.ITERATION_STARTED(once=1), first)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, sample)
    workflow.run()
    return {
        "seconds": result["seconds"],
        "caching_s": caching,
        "peak_gib": peak_memory(result["workers"]),
        "workers_gib": result["workers"],
    }


class Probe:
    """Handler that times the iterations of a trainer in turns with floor steps, and at the end their parts.

    Args:
        floor: the floor step.
        rounds: number of blocks of each kind.
        modules: modules whose forward passes are parts, by name.
    """

    def __init__(self, floor: Callable[[], None], rounds: int, modules: dict[str, nn.Module]) -> None:
        self.floor, self.rounds = floor, rounds
        self.floors: list[float] = []
        self.iterations: list[float] = []
        self.waits: list[float] = []
        self.parts: dict[str, float] = defaultdict(float)
        self.detailed_iterations = 0
        self.begin = self.mark = 0.0
        for name, module in modules.items():
            module.register_forward_pre_hook(partial(self.enter, name))
            module.register_forward_hook(partial(self.leave, name))

    def attach(self, engine: Engine) -> None:
        """Register last on a trainer."""
        for event, part in (
            (Events.GET_BATCH_STARTED, ""),
            (Events.GET_BATCH_COMPLETED, "data wait"),
            (Events.ITERATION_STARTED, "seeds, schedules"),
            (IterationEvents.FORWARD_COMPLETED, "forward"),
            (IterationEvents.LOSS_COMPLETED, "losses"),
            (IterationEvents.BACKWARD_COMPLETED, "backward"),
            (IterationEvents.MODEL_COMPLETED, "optimizer"),
            (Events.ITERATION_COMPLETED, "teacher update, logs"),
        ):
            engine.add_event_handler(event, self.stamp, part)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    @property
    def detailed(self) -> bool:
        """Whether parts are being timed."""
        return len(self.iterations) == self.rounds

    def stamp(self, engine: Engine, part: str) -> None:
        """Book the time since the last stamp."""
        if self.detailed:
            synchronize()
        now = time.perf_counter()
        if part == "data wait" and self.floors and not self.detailed:
            self.waits.append(now - self.mark)
        if part and self.detailed:
            self.parts[part] += now - self.mark
        self.mark = now

    def enter(self, name: str, *_: Any) -> None:
        """Begin of a forward pass."""
        if self.detailed:
            synchronize()
            self.parts[name] -= time.perf_counter()

    def leave(self, name: str, *_: Any) -> None:
        """End of a forward pass."""
        if self.detailed:
            synchronize()
            self.parts[name] += time.perf_counter()

    def __call__(self, engine: Engine) -> None:
        """After every block of iterations a block of floor steps."""
        if self.detailed:
            self.detailed_iterations += 1
        if engine.state.iteration % BLOCK or self.detailed:
            return
        synchronize()
        if self.floors:  # else it was the warm-up
            self.iterations.append((time.perf_counter() - self.begin) / BLOCK)
        if not self.detailed:
            time.sleep(1)  # the workers fill their queue
            self.floor()
            synchronize()
            begin = time.perf_counter()
            for _ in range(BLOCK):
                self.floor()
            synchronize()
            self.floors.append((time.perf_counter() - begin) / BLOCK)
        self.begin = time.perf_counter()


def measure(files: list[str], settings: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Time the bundle's iteration and the floor."""
    workflow = bundle(files, settings, BLOCK * (rounds + 3))
    get = workflow.parser.get_parsed_content
    labeled, unlabeled = get("labeled_batch_size"), get("unlabeled_batch_size")
    images = torch.randn(labeled + unlabeled, get("in_channels"), *get("patch_size"), device=get("device"))
    student, teacher, loss = get("network"), get("teacher"), get("loss")
    floor = Floor(copy.deepcopy(student), copy.deepcopy(teacher["network"]), images, labeled, get("precision"))
    modules = {
        "  student": student,
        "  teacher": teacher["network"],
        "  student's head": get("head_def"),
        "  teacher's head": teacher["head"],
        **{f"  L_{name}": module for name, module in loss.losses.items()},
    }
    probe = Probe(floor, rounds, modules)
    probe.attach(get("train::trainer"))
    workflow.run()
    with FlopCounterMode(display=False) as flops:
        floor()
    dataset, sampler, collate = get("train::dataset"), get("train::sampler"), get("train::dataloader").collate_fn
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    begin = time.perf_counter()
    for iteration in range(10):
        collate([dataset[index] for index in sampler.batch(iteration)])
    batch_s = (time.perf_counter() - begin) / 10
    torch.set_num_threads(threads)
    return {
        "cases": len(dataset),
        "floor_s": statistics.median(probe.floors),
        "iteration_s": statistics.median(probe.iterations),
        "ratio": statistics.median(b / a for a, b in zip(probe.floors, probe.iterations, strict=True)),
        "data_wait_fraction": sum(probe.waits) / sum(probe.iterations) / BLOCK,
        "batch_s": batch_s,
        "floor_tflops_per_s": flops.get_total_flops() / statistics.median(probe.floors) / 1e12,
        "parts_s": {name: seconds / probe.detailed_iterations for name, seconds in probe.parts.items()},
        "floors_s": probe.floors,
        "iterations_s": probe.iterations,
    }


def allocator_row(processes: list[dict[str, float]]) -> str:
    """Row of the table on one allocator setting."""
    return ", ".join(f"{process['seconds']:.3f} s" for process in processes) + (
        f"; {processes[0]['page_faults']:.0f} page faults a step, peak {processes[0]['peak_gib']:.2f} GiB"
    )


def main() -> None:
    """Measure and report."""
    arguments = parser(__doc__)
    arguments.add_argument("--patch", type=int, nargs=3, default=[112, 112, 80], metavar=("H", "W", "D"))
    arguments.add_argument("--rounds", type=int, default=8, help=f"blocks of {BLOCK} steps a kind (malloc: at most 2)")
    arguments.add_argument("--num_workers", type=int, help="loader workers (default: as configured)")
    arguments.add_argument("--peak_tflops", type=float, help="peak of the GPU in this precision, e.g. 989 for an H100")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "bundle_root": str(ROOT),
            "patch_size": chosen.patch,
            "precision": chosen.precision,
            "output_dir": folder + "/run",
            "ckpt_dir": folder + "/models",
            "cache_dir": chosen.cache_dir or folder + "/cache",
            "dataset_dir": chosen.dataset_dir
            or phantom_dataset(folder + "/phantoms", shape=tuple(size + 32 for size in chosen.patch)),
            "validate::dataset::data": [],
        }
        if chosen.num_workers is not None:
            settings["num_workers"] = chosen.num_workers
        first = in_new_process(start_up, chosen.config_file, settings)
        second = in_new_process(start_up, chosen.config_file, settings)
        stock, ours = [], []
        for _ in range(
            1 if torch.cuda.is_available() else min(2, chosen.rounds)
        ):  # in turns, as the machine is not equally fast all the time
            stock.append(in_new_process(bare_process, chosen.patch, chosen.precision, False))
            ours.append(in_new_process(bare_process, chosen.patch, chosen.precision, True))
        figures = measure(chosen.config_file, settings, chosen.rounds)
    figures |= {
        "peak_memory_gib": second["peak_gib"],
        "floor_peak_memory_gib": ours[0]["peak_gib"],
        "peak_memory_ratio": second["peak_gib"] / ours[0]["peak_gib"],
        "workers_gib": second["workers_gib"],
        "first_start_s": first["seconds"],
        "second_start_s": second["seconds"],
        "first_caching_s": first["caching_s"],
        "second_caching_s": second["caching_s"],
        "stock_malloc": stock,
        "our_malloc": ours,
    }
    if chosen.peak_tflops:
        figures["share_of_peak"] = figures["floor_tflops_per_s"] / chosen.peak_tflops
    share = f", {figures['share_of_peak']:.0%} of peak" if chosen.peak_tflops else ""
    parts = figures["parts_s"]
    allocator = {
        "floor, glibc's own malloc setting": allocator_row(stock),
        "floor, freed memory kept": allocator_row(ours),
    }
    rows = {
        "floor": f"{figures['floor_s']:.3f} s ({figures['floor_tflops_per_s']:.2f} TFLOP/s{share})",
        "iteration": f"{figures['iteration_s']:.3f} s",
        "ratio (median of pairs)": f"{figures['ratio']:.3f}",
        "data wait": f"{figures['data_wait_fraction']:.2%} of an iteration",
        "one batch on one core": f"{figures['batch_s']:.3f} s, in the workers",
        "peak memory": f"{second['peak_gib']:.2f} GiB with workers ({second['workers_gib']:.2f}), "
        f"floor {ours[0]['peak_gib']:.2f}, ratio {figures['peak_memory_ratio']:.2f}",
        f"start-up, {figures['cases']} cases": f"{first['seconds']:.1f} s, of it caching {first['caching_s']:.1f} s",
        "second start": f"{second['seconds']:.1f} s, of it caching {second['caching_s']:.1f} s",
        **({} if torch.cuda.is_available() else allocator),  # a GPU has its own
        "parts of an iteration": f"{sum(v for k, v in parts.items() if k[0] != ' '):.3f} s",
        **{f"  {name}": f"{seconds:.4f} s" for name, seconds in parts.items()},
    }
    patch = " x ".join(map(str, chosen.patch))
    report(f"A training step, patch {patch}, {chosen.precision}", rows, figures, chosen.json)


if __name__ == "__main__":
    main()
