"""Batch inference over many scans: scans a second of one and several processes with a thread each, and their memory.

python benchmarks/archive.py --scans 12 --shape 160 144 88 --patch 112 112 80
python benchmarks/archive.py --scans 2000 --shape 16 16 16 --patch 16 16 16 --processes 1
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
from common import GIB, ROOT, parser, report

MARKS = (0.1, 0.5, 1.0)
"""Parts of a share after which memory is read."""


def write_scans(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    """Files of noise around a bright box."""
    folder.mkdir()
    random = np.random.default_rng(0)
    array = random.random(shape, np.float32)
    array[tuple(slice(size // 4, size // 2) for size in shape)] += 2
    first = folder / "scan_0.nii"
    nib.save(nib.Nifti1Image(array, np.eye(4)), first)
    for number in range(1, count):
        os.link(first, folder / f"scan_{number}.nii")


class Memory:
    """Handler that notes the memory of the process and when it began and ended."""

    def __init__(self, scans: int) -> None:
        self.marks = [max(1, int(mark * scans)) for mark in MARKS]
        self.gib: list[float] = []

    def attach(self, engine: Any) -> None:
        """Look after each scan."""
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Read the memory at the marks."""
        if engine.state.iteration in self.marks:
            self.gib.append(psutil.Process().memory_info().rss / GIB)


def segment(share: str, scans: int, settings: dict[str, Any], barrier: Barrier, results: Any) -> None:
    """Segment a share when all processes are ready."""
    import torch
    from monai.bundle import ConfigParser

    torch.set_num_threads(1)
    config = ConfigParser()
    config.read_config(str(ROOT / "configs" / "inference.json"))
    memory = Memory(scans)
    config.update({**settings, "share": share, "handlers": [memory], "load": "$lambda: None"})
    config.parse()
    evaluator = config.get_parsed_content("evaluator")
    barrier.wait()
    begin = time.time()
    evaluator.run()
    results.put((begin, time.time(), memory.gib))


def main() -> None:
    """Measure and report."""
    arguments = parser(__doc__)
    arguments.add_argument("--scans", type=int, default=12)
    arguments.add_argument("--shape", type=int, nargs=3, default=(160, 144, 88))
    arguments.add_argument("--patch", type=int, nargs=3, default=(112, 112, 80))
    arguments.add_argument("--base_channels", type=int, default=16)
    arguments.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    chosen = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    rows, figures = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scans(folder / "scans", chosen.scans, tuple(chosen.shape))
        for count in chosen.processes:
            settings = {
                "bundle_root": str(ROOT), "dataset_dir": str(folder / "scans"), "inference_mode": "fast",
                "output_dir": str(folder / f"masks_{count}"), "patch_size": list(chosen.patch), "num_workers": 0,
                "precision": chosen.precision, "network_def::base_channels": chosen.base_channels,
            }  # fmt: skip
            barrier, results = context.Barrier(count), context.Queue()
            shares = [f"{number}/{count}" for number in range(1, count + 1)]
            processes = [
                context.Process(target=segment, args=(share, chosen.scans // count, settings, barrier, results))
                for share in shares
            ]
            for process in processes:
                process.start()
            ended = [results.get() for _ in processes]
            for process in processes:
                process.join()
            seconds = max(end for _, end, _ in ended) - min(begin for begin, _, _ in ended)
            figures[str(count)] = {"seconds": seconds, "scans_s": chosen.scans / seconds, "gib": ended[0][2]}
            memory = ", ".join(f"{gib:.3f}" for gib in ended[0][2])
            rows[f"{count} processes"] = (
                f"{chosen.scans / seconds:.2f} scans/s, {memory} GiB after {', '.join(f'{mark:.0%}' for mark in MARKS)}"
            )
    report(f"{chosen.scans} scans of {'x'.join(map(str, chosen.shape))}, a thread each", rows, figures, chosen.json)


if __name__ == "__main__":
    main()
