"""The first ten minutes on a GPU: what reading the code could not settle, tried and measured on phantoms.

Every check prints PASS, FAIL or SKIP with what it saw; a failed one does not stop the others. Figures go to a JSON
file. `make gpu-check` runs all; afterwards `make benchmark-gpu` measures on real scans.

    python benchmarks/gpu_check.py --json gpu_check.json
    python benchmarks/gpu_check.py --only precisions waits
    python benchmarks/gpu_check.py --device cpu --patch 16 16 16     # tries the script itself
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from common import GIB, ROOT, report, synchronize
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, ckpt_export
from monai.data import create_test_image_3d
from torch import nn
from train_step import Floor

import simcvd_bundle
from simcvd_bundle.data.phantoms import phantom_dataset
from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.networks.vnet import VNet

PRECISIONS = ("float32", "bfloat16", "float16")


class Skipped(Exception):
    """A check that does not apply here."""


class Machine:
    """The device, a folder, and trainings of phantoms on the one in the other.

    Args:
        device: ``"cuda"``, or ``"cpu"`` to try the script.
        folder: where everything is written.
        patch: patch of the trainings and of the timed steps.
    """

    def __init__(self, device: str, folder: str, patch: list[int]) -> None:
        self.device, self.folder, self.patch = device, folder, patch
        self.data = phantom_dataset(f"{folder}/phantoms", shape=tuple(max(30, size + 8) for size in patch))
        self.steps, self.channels = (20, 16) if device == "cuda" else (2, 2)

    def settings(self, name: str) -> dict[str, Any]:
        """Ids of a training in a folder of its own."""
        return {
            "bundle_root": str(ROOT), "device": self.device, "patch_size": self.patch, "dataset_dir": self.data,
            "cache_dir": f"{self.folder}/cache", "output_dir": f"{self.folder}/{name}", "precision": "float32",
            "ckpt_dir": f"{self.folder}/{name}/models", "iterations": 2 * self.steps, "epoch_length": self.steps,
            "num_workers": 0, "validate::dataset::data": [], "network_def::base_channels": self.channels,
        }  # fmt: skip

    def train(self, name: str, prepare: Callable[[Any], None] | None = None, **settings: Any) -> Any:
        """Train, and return the trainer; ``prepare`` is given it before it runs."""
        workflow = ConfigWorkflow(
            config_file=str(ROOT / "configs" / "train.json"), workflow_type="train", logging_file=False,
            **{**self.settings(name), **settings},
        )  # fmt: skip
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train::trainer")
        if prepare:
            prepare(trainer)
        workflow.run()
        workflow.finalize()
        return trainer

    def weights(self, name: str) -> Mapping[str, torch.Tensor]:
        """What the training of this name wrote."""
        weights: Mapping[str, torch.Tensor] = torch.load(f"{self.folder}/{name}/model.pt", weights_only=True)
        return weights

    def need_cuda(self) -> None:
        """Skip a check elsewhere."""
        if self.device != "cuda":
            raise Skipped("on CUDA only")


def check_versions(machine: Machine) -> str:
    """Torch, CUDA, cuDNN and the kernels that the wheel has."""
    machine.need_cuda()
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    arches = torch.cuda.get_arch_list()
    known = [int(arch.split("_")[1].rstrip("af")) for arch in arches if arch.startswith("sm_")]
    assert min(known) <= int(capability.split("_")[1]), f"{capability} is older than the wheel's {arches}"
    return f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, {capability} of {' '.join(arches)}"


def check_precisions(machine: Machine) -> str:
    """Trainings in each precision end with finite losses and resume; the loss scale of float16 continues."""
    scales = []
    for precision in PRECISIONS:
        first = machine.train(precision, precision=precision)
        more = machine.train(precision, precision=precision, resume=True, iterations=4 * machine.steps)
        assert more.state.iteration == 4 * machine.steps, precision
        states = [trainer.scaler.state_dict() for trainer in (first, more) if trainer.scaler is not None]
        if any(states):  # a scaler works on GPUs only
            scales = [state["scale"] for state in states]
            assert scales[0] != scales[1] or states[0]["_growth_tracker"] < states[1]["_growth_tracker"], states
    return f"finite in {', '.join(PRECISIONS)}; loss scale after each part {scales or 'none'}"


def check_overflow(machine: Machine) -> str:
    """After an overflow in the first step weights are 1 or decayed, with the optimiser that float16 gets; not NaN."""
    left = {}
    for fused in (False, True):
        parameter = nn.Parameter(torch.ones(5000, device=machine.device))
        optimizer = torch.optim.SGD([parameter], 0.01, 0.9, weight_decay=0.0005, fused=fused)
        scaler = torch.amp.GradScaler(machine.device)
        torch.full((GIB // 16,), 7.7, device=machine.device)  # freed at once: what fresh memory then holds
        for gradient in (float("inf"), 0.0):
            scaler.scale(torch.zeros((), device=machine.device))
            parameter.grad = torch.full_like(parameter, gradient)
            scaler.step(optimizer)
            scaler.update()
        left[fused] = bool(torch.isfinite(parameter).all() and (parameter - 1).abs().max() < 1e-4)
    assert left[False], "not fused: the weights are not those of two steps"
    return f"not fused as it should be; fused {'too' if left[True] else 'is not, so float16 rightly goes without'}"


def check_waits(machine: Machine) -> str:
    """No iteration waits for the device, but those that log and look for NaN together."""
    machine.need_cuda()
    places: list[str] = []

    def prepare(trainer: Any) -> None:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: torch.cuda.set_sync_debug_mode("warn"))
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=9), lambda: torch.cuda.set_sync_debug_mode(0))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        machine.train("waits", prepare, log_interval=1, num_workers=2)
    places = [f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    assert not places, f"iterations 4 to 9 wait {len(places)} times: {sorted(set(places))}"
    return "none in iterations 4 to 9, with log_interval 1"


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
    from torch.profiler import ProfilerActivity, profile

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


def check_loader(machine: Machine) -> dict[str, str]:
    """Milliseconds of an iteration, and what of it is waiting for data, by workers, copies and logging."""
    rows = {}
    choices = [(workers, True, 10) for workers in (2, 4, 8, 16)] + [(8, False, 10), (8, True, 1)]
    for workers, free, interval in choices if machine.device == "cuda" else [(1, True, 10)]:
        marks: dict[str, list[float]] = {"iteration": [], "asked": [], "given": []}

        def prepare(trainer: Any, marks: dict[str, list[float]] = marks) -> None:
            for event, name in (
                (Events.GET_BATCH_STARTED, "asked"), (Events.GET_BATCH_COMPLETED, "given"),
                (Events.ITERATION_COMPLETED, "iteration"),
            ):  # fmt: skip
                trainer.add_event_handler(event, lambda name=name: marks[name].append(time.perf_counter()))

        machine.train(
            f"loader{workers}{free}{interval}", prepare, num_workers=workers, log_interval=interval,
            iterations=10 * machine.steps, epoch_length=10 * machine.steps, precision="auto",
            **{"train::trainer::non_blocking": free},
        )  # fmt: skip
        half = len(marks["iteration"]) // 2
        whole = (marks["iteration"][-1] - marks["iteration"][half - 1]) / (len(marks["iteration"]) - half)
        waits = [given - asked for asked, given in zip(marks["asked"], marks["given"], strict=False)][half:]
        name = f"{workers} workers, non_blocking {free}, log_interval {interval}"
        rows[name] = f"{1000 * whole:.1f} ms, waiting {1000 * statistics.mean(waits):.2f} ms"
    return rows


def check_repeat(machine: Machine) -> dict[str, str]:
    """Whether a training repeated, and one resumed half way, give the same bits."""
    rows = {}
    for precision, pooling in (("float32", "average"), ("bfloat16", "average"), ("float32", "max")):
        chosen = {"precision": precision, "head_pooling": pooling}
        for name in "ab":
            machine.train(f"repeat_{precision}_{pooling}_{name}", **chosen)
        resumed = f"repeat_{precision}_{pooling}_c"
        machine.train(
            resumed, iterations=machine.steps, lr_step=machine.steps, rampup_length=2 * machine.steps, **chosen
        )
        machine.train(resumed, resume=True, lr_step=machine.steps, rampup_length=2 * machine.steps, **chosen)
        weights = [machine.weights(f"repeat_{precision}_{pooling}_{name}") for name in "abc"]
        same = [all(torch.equal(weights[0][key], other[key]) for key in weights[0]) for other in weights[1:]]
        rows[f"{precision}, {pooling} pooling"] = f"repeated {same[0]}, resumed {same[1]}"
    if machine.device == "cpu":
        assert all(row == "repeated True, resumed True" for row in rows.values()), rows
    return rows


def check_agreement(machine: Machine) -> dict[str, str]:
    """Probabilities of the shipped network against those of the CPU in float32."""
    network = VNet().eval()
    network.load_state_dict(torch.load(ROOT / "models" / "model.pt", weights_only=True))
    patch = [max(32, size) for size in machine.patch]
    image = torch.from_numpy(create_test_image_3d(*(size + 8 for size in patch), rad_max=10)[0])[None, None].float()
    image = (image - image.mean()) / image.std()
    rows = {}
    with torch.no_grad():
        for mode in ("window", "fast"):
            stride = [size // 2 for size in patch]
            expected = make_inferer(mode, patch, stride, precision="float32")(image, network.cpu())
            for precision in PRECISIONS:
                inferer = make_inferer(mode, patch, stride, precision=precision)
                result = inferer(image.to(machine.device), network.to(machine.device)).cpu()
                voxels = int((result.argmax(1) != expected.argmax(1)).sum())
                worst = float((result - expected).abs().max())
                rows[f"{mode}, {precision}"] = f"{worst:.1e} at most, {voxels} of {expected[0, 0].numel()} voxels"
                assert precision != "float32" or voxels <= expected[0, 0].numel() // 1000, rows
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


def check_api(machine: Machine) -> str:
    """A prediction of the Python API is a NumPy array at once; the caller's cuDNN switches stay."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    labeled = [tuple(f"{machine.data}/{kind}/training_{n:02d}.nii.gz" for kind in ("images", "labels")) for n in (0, 1)]
    settings = {name: value for name, value in machine.settings("api").items() if name in ("device", "patch_size")}
    model = simcvd_bundle.train(
        labeled, [image for image, _ in labeled], output_dir=f"{machine.folder}/api", iterations=2, num_workers=0,
        class_names={"1": "ball"}, **settings,
    )  # fmt: skip
    mask = model.predict(labeled[0][0], dropout_samples=2).mask.numpy()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before
    return f"mask {mask.shape} {mask.dtype}"


def check_processes(machine: Machine) -> str:
    """One process of torchrun trains and resumes, and two where there are two GPUs."""
    many = min(2, torch.cuda.device_count()) if machine.device == "cuda" else 2
    files = str([str(ROOT / "configs" / name) for name in ("train.json", "multi_gpu_train.json")])
    settings = {**machine.settings("processes"), "precision": "auto"}
    del settings["device"]
    for extra in ({"iterations": 2, "epoch_length": 2}, {"iterations": 4, "epoch_length": 2, "resume": True}):
        arguments = [part for item in {**settings, **extra}.items() for part in (f"--{item[0]}", str(item[1]))]
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={many}", "-m",
             "monai.bundle", "run", "training", "--config_file", files, *arguments],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    noise = [line for line in done.stderr.splitlines() if "Warning" in line and ("NCCL" in line or "barrier" in line)]
    return f"{many} processes; warnings of the group: {noise or 'none'}"


def check_half(machine: Machine) -> str:
    """A TorchScript file in half precision runs by ``deploy.json`` alone."""
    file = f"{machine.folder}/half/model.ts"
    Path(file).parent.mkdir()
    configs = [str(ROOT / "configs" / name) for name in ("inference.json", "deploy.json")]
    ckpt_export(
        "network_half", file, str(ROOT / "models" / "model.pt"), str(ROOT / "configs" / "metadata.json"), configs,
        network_half="$@network_def.half()", bundle_root=str(ROOT),
    )  # fmt: skip
    network = torch.jit.load(file, map_location=machine.device).eval()
    workflow = ConfigWorkflow(
        config_file=configs, workflow_type="infer", logging_file=False, bundle_root=str(ROOT), patch_size=[32, 32, 32]
    )
    workflow.initialize()
    with torch.no_grad():
        result = workflow.parser.get_parsed_content("inferer")(
            torch.randn(1, 1, 40, 32, 32).to(machine.device), network
        )
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    return f"probabilities {tuple(result.shape)}"


CHECKS: dict[str, Callable[[Machine], str | dict[str, str]]] = {
    name.removeprefix("check_"): function for name, function in list(globals().items()) if name.startswith("check_")
}


def main() -> None:
    """Run the checks."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--patch", type=int, nargs=3, default=[112, 112, 80], metavar=("H", "W", "D"))
    arguments.add_argument("--only", nargs="*", default=list(CHECKS), choices=list(CHECKS))
    arguments.add_argument("--json", metavar="FILE")
    chosen = arguments.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print(f"SKIPPED: torch {torch.__version__} sees no GPU, so nothing was checked.")
        return
    rows: dict[str, str] = {}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(chosen.device, folder, chosen.patch)
        for name in chosen.only:
            begin = time.perf_counter()
            try:
                seen = CHECKS[name](machine)
                found = seen if isinstance(seen, dict) else {"": seen}
                rows |= {f"{name} {detail}".strip(): text for detail, text in found.items()}
                word = "PASS"
            except Skipped as reason:
                word, rows[name] = "SKIP", str(reason)
            except Exception as error:
                traceback.print_exc()
                failed.append(name)
                word, rows[name] = "FAIL", str(error)
            with suppress(RuntimeError):
                torch.cuda.empty_cache()
            print(f"{word} {name} ({time.perf_counter() - begin:.0f} s)", flush=True)
    report(f"First checks on {chosen.device}", rows, {"failed": failed, **rows}, chosen.json)
    if failed:
        sys.exit(f"FAILED: {', '.join(failed)}")


if __name__ == "__main__":
    main()
