"""The first ten minutes on a GPU: what reading the code could not settle, tried and measured on phantoms.

Every check prints PASS, FAIL or SKIP with what it saw; a failed one does not stop the others. Figures go to a JSON
file. `make gpu-check` runs all; afterwards `make benchmark-gpu` measures on real scans.

    python benchmarks/gpu_check.py --json gpu_check.json
    python benchmarks/gpu_check.py --only precisions waits
    python benchmarks/gpu_check.py --device cpu --patch 16 16 16     # tries the script itself
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from common import GIB, ROOT, report
from gpu_machine import PRECISIONS, Machine, Skipped
from gpu_timings import check_kernels, check_loader, check_step, check_whole_scans
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, ckpt_export
from monai.data import create_test_image_3d
from torch import nn

import simcvd_bundle
from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.networks.vnet import VNet


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
    "versions": check_versions, "precisions": check_precisions, "overflow": check_overflow, "waits": check_waits,
    "step": check_step, "kernels": check_kernels, "loader": check_loader, "repeat": check_repeat,
    "agreement": check_agreement, "whole_scans": check_whole_scans, "api": check_api, "processes": check_processes,
    "half": check_half,
}  # fmt: skip


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
