"""Time of an iteration of each method beside its floor, the bare network passes that the method cannot do without.

The floor has the method's own passes: as many of student (forward and backward) and teacher (forward), of as many
patches, as its first iteration has. Iterations and floor steps are timed in turns, method after method in one run, each
in a process of its own. Methods of two stages are timed in the second.

    python benchmarks/methods.py --config_file data_acdc.json --dataset_dir DIR --json methods.json
    python benchmarks/methods.py --methods simcvd method_ua_mt --patch 48 48 32
"""

from __future__ import annotations

import copy
import statistics
import tempfile
from typing import Any

import torch
from common import ROOT, in_new_process, parser, peak_memory, report
from ignite.engine import Events
from torch import nn
from train_step import BLOCK, Probe, bare_pass, bundle

from simcvd_bundle.commands.experiment import all_methods
from simcvd_bundle.data.phantoms import phantom_dataset


class Passes:
    """A network's passes: how many patches each has in the first iteration, and the same with random images.

    Args:
        network: the network; a copy of it makes the floor's passes.
        backward: whether a pass has a backward one too.
    """

    def __init__(self, network: nn.Module, backward: bool) -> None:
        self.copy = copy.deepcopy(network).train().requires_grad_(backward)
        self.backward = backward
        self.shapes: list[torch.Size] = []
        self.hook = network.register_forward_pre_hook(lambda _, inputs: self.shapes.append(inputs[0].shape))

    def repeat(self, precision: str) -> None:
        """Make them once more."""
        device = next(self.copy.parameters()).device
        for shape in self.shapes:
            bare_pass(self.copy, torch.randn(shape, device=device), precision, self.backward)


def measure(files: list[str], settings: dict[str, Any], rounds: int) -> dict[str, float]:
    """Time one method."""
    workflow = bundle(files, settings, BLOCK * (rounds + 3))
    get = workflow.parser.get_parsed_content
    student, teacher = get("network"), get("teacher")["network"]  # one is a copy of the other, without hooks
    passes = [Passes(student, True), Passes(teacher, False)]
    trainer = get("train::trainer")
    for network in passes:
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), network.hook.remove)

    def floor() -> None:
        for network in passes:
            network.repeat(get("precision"))

    probe = Probe(floor, rounds, {})
    probe.attach(trainer)
    workflow.run()
    return {
        "floor_s": statistics.median(probe.floors),
        "iteration_s": statistics.median(probe.iterations),
        "ratio": statistics.median(b / a for a, b in zip(probe.floors, probe.iterations, strict=True)),
        "student_patches": sum(shape[0] for shape in passes[0].shapes),
        "teacher_patches": sum(shape[0] for shape in passes[1].shapes),
        "peak_memory_gib": peak_memory(),
    }


def main() -> None:
    """Measure and report."""
    arguments = parser(__doc__)
    arguments.add_argument("--methods", nargs="*", default=all_methods(), help="overlays of configs/, simcvd for none")
    arguments.add_argument("--patch", type=int, nargs=3, metavar=("H", "W", "D"), help="default: as configured")
    arguments.add_argument("--rounds", type=int, default=4, help=f"blocks of {BLOCK} steps a kind")
    chosen = arguments.parse_args()
    figures, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "bundle_root": str(ROOT),
            "precision": chosen.precision,
            "output_dir": folder + "/run",
            "ckpt_dir": folder + "/models",
            "cache_dir": chosen.cache_dir or folder + "/cache",
            "dataset_dir": chosen.dataset_dir or phantom_dataset(folder + "/phantoms"),
            "validate::dataset::data": [],
        }
        if chosen.patch:
            settings["patch_size"] = chosen.patch
        for method in chosen.methods:
            overlay = ROOT / "configs" / f"{method}.json"
            files = [str(overlay)] if method != "simcvd" else []
            stages = {"pretrain_iterations": 0} if files and "pretrain_iterations" in overlay.read_text("utf-8") else {}
            figures[method] = one = in_new_process(
                measure, [*chosen.config_file, *files], {**settings, **stages}, chosen.rounds
            )
            patches = f"{one['student_patches']} and {one['teacher_patches']} patches of student and teacher"
            rows[method.removeprefix("method_")] = (
                f"{one['iteration_s']:.3f} s, floor {one['floor_s']:.3f} s, ratio {one['ratio']:.2f}, {patches}, "
                f"{one['peak_memory_gib']:.2f} GiB"
            )
            print(f"{method}: {rows[method.removeprefix('method_')]}", flush=True)
    report(f"An iteration of each method, {chosen.precision}", rows, {"methods": figures}, chosen.json)


if __name__ == "__main__":
    main()
