"""How the cost grows: of a step with patch volume, classes and sampled slices, of an epoch with the number of cases.

Each step is measured in a process of its own, in turns with nothing else running. All data are phantoms.

    python benchmarks/scaling.py --json scaling.json
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from typing import Any

from common import in_new_process, parser, peak_memory, report, synchronize, workers_memory
from ignite.engine import Engine, Events
from train_step import ROOT, bundle

from simcvd_bundle.data.phantoms import phantom_dataset

STEPS = 5
PATCHES = [(32, 32, 32), (64, 64, 32), (64, 64, 64), (96, 96, 64), (112, 112, 80)]
CLASSES = [1, 2, 4, 8]
SLICES = [8, 32, None]
CASES = [10, 100, 1000]


def steps(settings: dict[str, Any], iterations: int = STEPS + 2) -> dict[str, float]:
    """Seconds until the first iteration, median seconds of the iterations after the first two, and peak memory."""
    begin = time.perf_counter()
    workflow = bundle([], settings, iterations)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    marks: list[float] = []
    workers = []

    def mark(engine: Engine) -> None:
        synchronize()
        marks.append(time.perf_counter())
        workers.append(workers_memory())

    trainer.add_event_handler(Events.STARTED, mark)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, mark)
    workflow.run()
    durations = [after - before for before, after in itertools.pairwise(marks[2:])]
    return {
        "start_s": marks[0] - begin,
        "step_s": statistics.median(durations),
        "peak_gib": peak_memory(max(workers)),
        "all_s": marks[-1] - marks[0],
    }


def main() -> None:
    """Measure and report."""
    chosen = parser(__doc__).parse_args()
    figures: dict[str, Any] = {}
    rows: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        common = {
            "bundle_root": str(ROOT),
            "precision": chosen.precision,
            "output_dir": folder + "/run",
            "ckpt_dir": folder + "/models",
            "validate::dataset::data": [],
        }

        def measure(name: str, dataset: str, iterations: int = STEPS + 2, **settings: Any) -> dict[str, float]:
            result: dict[str, float] = in_new_process(
                steps, {**common, "dataset_dir": dataset, "cache_dir": f"{dataset}_cache", **settings}, iterations
            )
            figures[name] = result
            rows[name] = f"{result['step_s']:.3f} s a step, peak {result['peak_gib']:.2f} GiB"
            print(name, rows[name], flush=True)
            return result

        large = phantom_dataset(folder + "/large", shape=(128, 128, 96), num_training=6)
        for patch in PATCHES:
            measure(f"patch {' x '.join(map(str, patch))}", large, patch_size=list(patch))
        names = {str(c): f"class {c}" for c in range(1, max(CLASSES) + 1)}
        for number in CLASSES:
            classes = dict(list(names.items())[:number])
            measure(f"{number} classes, patch 64 x 64 x 64", large, patch_size=[64, 64, 64], class_names=classes)
        for number in SLICES:
            measure(f"num_slices {number}, patch 64 x 64 x 64", large, patch_size=[64, 64, 64], num_slices=number)
        for number in CASES:
            cases = phantom_dataset(f"{folder}/{number}", num_training=number)
            name = f"{number} cases, one epoch, patch 32 x 32 x 32"
            epoch = max(number // 4, 3)  # 2 labelled and 2 unlabelled an iteration
            result = measure(name, cases, epoch, patch_size=[32, 32, 32])
            rows[name] += f", epoch of {epoch} iterations {result['all_s']:.1f} s, preparing {result['start_s']:.1f} s"
        result = measure(name + ", second start", cases, STEPS + 2, patch_size=[32, 32, 32])
        rows[name + ", second start"] += f", preparing {result['start_s']:.1f} s"
    report("How the cost grows", rows, figures, chosen.json)


if __name__ == "__main__":
    main()
