"""The fast mode (whole slices) beside the paper's sliding window: seconds and Dice on whole cases.

Both modes segment every case in turn in one process, with the same weights, precision and threads. Loading and writing
are timed by themselves: in the bundle they run beside the computation. Without weights the networks are random, which
is enough for times; without a dataset phantoms are segmented.

    python benchmarks/inference.py --config_file configs/data_la.json --dataset_dir DIR --weights model.pt
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import Any

import torch
from common import parser_of_cases, peak_memory, report, synchronize, training_config
from monai.transforms import SaveImage
from torch import Tensor

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.phantoms import phantom_dataset
from simcvd_bundle.evaluation.metrics import case_metrics
from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.runs.weights import load_weights
from simcvd_bundle.utils.memory import keep_freed_memory


def timed(function: Any, *args: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    synchronize()
    begin = time.perf_counter()
    result = function(*args)
    synchronize()
    return time.perf_counter() - begin, result


def dice(probabilities: Tensor, label: Tensor) -> float:
    """Dice of the foreground, all classes as one."""
    return float(case_metrics(probabilities[0].argmax(0).cpu() > 0, label[0] > 0, (1, 1, 1))["dice"])


def main() -> None:
    """Measure and report."""
    arguments = parser_of_cases(__doc__)
    arguments.add_argument("--weights", help="model.pt of a training (default: random weights)")
    chosen = arguments.parse_args()
    keep_freed_memory()
    config = training_config(chosen.config_file)
    with tempfile.TemporaryDirectory() as folder:
        config["dataset_dir"] = chosen.dataset_dir or phantom_dataset(folder + "/phantoms", shape=(160, 144, 88))
        get = config.get_parsed_content
        items = load_datalist(
            get("dataset_dir"), chosen.section, get("datalist"), get("num_labeled"), require_labels=True
        )
        network = get("network_def").to(get("device")).eval()
        if chosen.weights:
            load_weights(network, chosen.weights)
        inferers = {
            mode: make_inferer(mode, get("patch_size"), get("window_stride"), precision=chosen.precision)
            for mode in ("window", "fast")
        }
        load = get("validate::preprocessing")
        save = SaveImage(folder, output_dtype="uint8", resample=False, print_log=False)
        seconds: dict[str, list[float]] = {"load": [], "window": [], "fast": [], "save": []}
        scores: dict[str, list[float]] = {"window": [], "fast": []}
        with torch.no_grad():
            for number, item in enumerate(items[: chosen.cases]):
                spent, data = timed(load, item)
                seconds["load"].append(spent)
                image, label = data["image"][None].to(get("device")), data["label"]
                inferers["fast"](image, network)  # warm-up for this shape
                line = f"{number + 1}: {' x '.join(map(str, image.shape[2:]))}"
                for mode, inferer in inferers.items():
                    spent, probabilities = timed(inferer, image, network)
                    seconds[mode].append(spent)
                    scores[mode].append(dice(probabilities, label))
                    line += f", {mode} {spent:.2f} s Dice {scores[mode][-1]:.4f}"
                print(line, flush=True)
                seconds["save"].append(timed(save, probabilities[0].argmax(0, keepdim=True))[0])
    window_s, fast_s = statistics.mean(seconds["window"]), statistics.mean(seconds["fast"])
    differences = [fast - window for fast, window in zip(scores["fast"], scores["window"], strict=True)]
    figures = {
        "cases": len(differences),
        "section": chosen.section,
        "weights": chosen.weights,
        "window_s": window_s,
        "fast_s": fast_s,
        "speedup": window_s / fast_s,
        "window_dice": statistics.mean(scores["window"]),
        "fast_dice": statistics.mean(scores["fast"]),
        "dice_difference": statistics.mean(differences),
        "load_s": statistics.mean(seconds["load"]),
        "save_s": statistics.mean(seconds["save"]),
        "peak_memory_gib": peak_memory(),
        "per_case": {"seconds": seconds, "dice": scores},
    }
    rows = {
        "sliding window": f"{window_s:.2f} s a case, Dice {figures['window_dice']:.4f}",
        "fast mode": f"{fast_s:.2f} s a case, Dice {figures['fast_dice']:.4f}",
        "speed-up": f"{figures['speedup']:.1f}",
        "Dice, fast - window": f"{figures['dice_difference']:+.4f} "
        f"(per case {min(differences):+.4f} to {max(differences):+.4f})",
        "loading, writing": f"{figures['load_s']:.3f} s, {figures['save_s']:.3f} s a case, beside the computation",
        "peak memory": f"{figures['peak_memory_gib']:.2f} GiB",
    }
    report(
        f"Inference, {len(differences)} cases of section {chosen.section}, {chosen.precision}",
        rows,
        figures,
        chosen.json,
    )


if __name__ == "__main__":
    main()
