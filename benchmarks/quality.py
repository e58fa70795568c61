"""Scores of a mask without ground truth against its true Dice, and what test-time options gain: both in fast mode.

Each candidate score is computed for cases whose labels the network did not see (section ``unlabeled``: it saw their
images) and compared with the true Dice: Spearman's rank correlation, AUROC of finding the masks with a Dice below 0.85,
and seconds beyond the plain pass. A line through the labelled cases predicts the Dice of the others.

    python benchmarks/quality.py --config_file configs/data_la.json --dataset_dir DIR --weights models/model.pt
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from common import parser, report, training_config
from scipy import ndimage, stats
from torch import Tensor

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.foreground import pieces_of
from simcvd_bundle.evaluation.metrics import case_metrics
from simcvd_bundle.inference.disagreement import mask_disagreement
from simcvd_bundle.inference.masks import KeepLargestd
from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.networks.vnet import split_output
from simcvd_bundle.runs.weights import load_weights
from simcvd_bundle.utils.memory import keep_freed_memory

FLIPS = ([2], [3], [2, 3])
LOW = 0.85
FAINT = 0.01
"""Probability of any class up to which a voxel lies outside of the box of a case."""


def dice(first: Tensor, second: Tensor) -> float:
    """Dice of the foreground, all classes as one."""
    both = int((first & second).sum())
    return 2 * both / max(int(first.sum()) + int(second.sum()), 1)


def foreground(probability: Tensor) -> Tensor:
    """Voxels of any class, of probabilities of background and classes."""
    return probability[1:].amax(0) > probability[0]


class Case:
    """What a network says about a scan, in the box of what it does not call background with certainty.

    Args:
        pred: ``(2 C + 1, *spatial)``, see ``split_output``.
        num_classes: number of foreground classes ``C``.
    """

    def __init__(self, pred: Tensor, num_classes: int) -> None:
        self.pred = pred
        probability = split_output(pred, num_classes)[0]
        box = ndimage.find_objects((probability[0] < 1 - FAINT).numpy().astype(np.uint8))
        self.probability = probability[:, *box[0]] if box else probability[:, :1, :1, :1]
        self.mask = foreground(self.probability)
        _, self.sizes = pieces_of(self.mask.numpy())

    def entropy(self) -> Tensor:
        """Of each voxel, 1 at most."""
        return torch.special.entr(self.probability).sum(0) / math.log(len(self.probability))


def expected_dice(case: Case) -> float:
    """Dice that the probabilities themselves expect of the mask."""
    probability = 1 - case.probability[0]
    return float(2 * probability[case.mask].sum() / (probability.sum() + case.mask.sum()))


def boundary_certainty(case: Case) -> float:
    """One minus the mean entropy of the voxels on both sides of the boundary."""
    mask = case.mask.numpy()
    band = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
    return 1 - float(case.entropy()[torch.as_tensor(band)].mean()) if band.any() else 0.0


def total_certainty(case: Case) -> float:
    """Minus the entropy of all voxels a voxel of the mask."""
    return -float(case.entropy().sum() / case.mask.sum().clamp(min=1))


def branch_agreement(case: Case) -> float:
    """Overlap of the masks by probability and by signed distance."""
    return 1 - mask_disagreement(case.pred)


def largest_part(case: Case) -> float:
    """Share of the mask that its largest component has."""
    return float(case.sizes.max() / case.sizes.sum()) if len(case.sizes) else 0.0


def components(case: Case) -> float:
    """Minus the number of components."""
    return -float(len(case.sizes))


OF_ONE_PASS: dict[str, Callable[[Case], float]] = {
    "expected Dice": expected_dice, "entropy at the boundary": boundary_certainty, "entropy": total_certainty,
    "probability and SDM agree": branch_agreement, "largest component": largest_part, "components": components,
}  # fmt: skip


def flipped_pass(inferer: Any, image: Tensor, network: Any, axes: list[int]) -> Tensor:
    """What is said about the mirrored scan, mirrored back."""
    return cast(Tensor, inferer(image.flip(axes), network).flip(axes)[0].cpu())


def measure(
    image: Tensor, label: Tensor, inferer: Any, network: Any, num_classes: int, volume: Any, mirror: bool
) -> dict[str, Any]:
    """All scores, seconds and Dice values of one case; ``mirror`` asks for the mirrored passes."""
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = function()
        seconds[name] = time.perf_counter() - begin
        return result

    pred = timed("pass", lambda: inferer(image, network))[0].cpu()
    case = timed("box and components", lambda: Case(pred, num_classes))
    scores = {name: timed(name, partial(score, case)) for name, score in OF_ONE_PASS.items()}
    mask = foreground(split_output(pred, num_classes)[0])
    flipped = [
        timed(f"flip {axes}", partial(flipped_pass, inferer, image, network, axes))
        for axes in FLIPS[: len(FLIPS) * mirror]
    ]
    scores["volume"] = volume(int(mask.sum()))
    seconds["volume"] = 0.0
    truth = label > 0
    largest = KeepLargestd("pred", [1])({"pred": mask[None].byte()})["pred"][0] > 0
    options = {"plain": mask, "largest component": largest}
    if mirror:
        scores["one flip"], seconds["one flip"] = (
            dice(mask, foreground(split_output(flipped[0], num_classes)[0])),
            seconds["flip [2]"],
        )
        options["mirror"] = foreground(split_output(torch.stack([pred, *flipped]).mean(0), num_classes)[0])
    values = {name: float(case_metrics(option, truth, (1, 1, 1))["dice"]) for name, option in options.items()}
    return {"scores": scores, "seconds": seconds, "dice": values}


def auroc(score: np.ndarray, low: np.ndarray) -> float:
    """Probability that a low case has the lower score."""
    if not low.any() or low.all():
        return float("nan")
    return float(stats.mannwhitneyu(score[~low], score[low]).statistic / (low.sum() * (~low).sum()))


def main() -> None:
    """Measure and report."""
    arguments = parser(__doc__)
    arguments.add_argument("--weights", help="model.pt of a training (default: random weights)")
    arguments.add_argument("--cases", type=int, default=64, help="cases of each section at most")
    chosen = arguments.parse_args()
    keep_freed_memory()
    config = training_config(chosen.config_file)
    config["dataset_dir"] = chosen.dataset_dir
    get = config.get_parsed_content
    network, num_classes = get("network_def").to(get("device")).eval(), get("num_classes")
    if chosen.weights:
        load_weights(network, chosen.weights)
    inferer = make_inferer("fast", get("patch_size"), get("window_stride"), with_sdm=True, precision=chosen.precision)
    load = get("validate::preprocessing")
    sections = {
        section: load_datalist(get("dataset_dir"), section, get("datalist"), get("num_labeled"), require_labels=True)
        for section in ("labeled", "unlabeled")
    }
    logs = [math.log(max(int((load(item)["label"] > 0).sum()), 1)) for item in sections["labeled"]]
    center, width = statistics.mean(logs), statistics.pstdev(logs) or 1.0

    def volume(voxels: int) -> float:
        return -abs(math.log(max(voxels, 1)) - center) / width

    cases: dict[str, list[dict[str, Any]]] = {"labeled": [], "unlabeled": []}
    with torch.no_grad():
        for section, items in sections.items():
            for number, item in enumerate(items[: chosen.cases]):
                data = load(item)
                image = data["image"][None].to(get("device"))
                case = measure(image, data["label"][0], inferer, network, num_classes, volume, number % 8 == 0)
                cases[section].append(case)
                dices = ", ".join(f"{name} {value:.4f}" for name, value in case["dice"].items())
                if chosen.json:
                    Path(chosen.json).write_text(json.dumps({"per_case": cases}), encoding="utf-8")
                print(f"{section} {number + 1}: {case['seconds']['pass']:.2f} s, {dices}", flush=True)
    rows, figures = {}, {}
    for name in cases["unlabeled"][0]["scores"]:
        with_score = {section: [c for c in found if name in c["scores"]] for section, found in cases.items()}
        truth = {section: np.array([c["dice"]["plain"] for c in found]) for section, found in with_score.items()}
        score = {section: np.array([c["scores"][name] for c in found]) for section, found in with_score.items()}
        constant = len(set(score["labeled"])) < 2
        slope, intercept = (
            (0.0, truth["labeled"].mean()) if constant else np.polyfit(score["labeled"], truth["labeled"], 1)
        )
        predicted = slope * score["unlabeled"] + intercept
        figures[name] = {
            "cases": len(truth["unlabeled"]),
            "spearman": float(stats.spearmanr(score["unlabeled"], truth["unlabeled"]).statistic),
            "auroc": auroc(score["unlabeled"], truth["unlabeled"] < LOW),
            "seconds": statistics.mean(case["seconds"][name] for case in with_score["unlabeled"]),
            "slope": float(slope), "intercept": float(intercept),
            "predicted_error": float(np.abs(predicted - truth["unlabeled"]).mean()),
        }  # fmt: skip
        f = figures[name]
        rows[name] = (
            f"Spearman {f['spearman']:+.2f}, AUROC {f['auroc']:.2f}, {f['seconds']:.2f} s, mean error of the predicted "
            f"Dice {f['predicted_error']:.3f}, {f['cases']} cases"
        )
    low = [case for case in cases["unlabeled"] if case["dice"]["plain"] < LOW]
    options = {}
    for name in ("mirror", "largest component"):
        gains = {
            s: [c["dice"][name] - c["dice"]["plain"] for c in found if name in c["dice"]] for s, found in cases.items()
        }
        options[name] = {section: statistics.mean(gain) for section, gain in gains.items()}
        rows[f"Dice with {name}"] = ", ".join(f"{section} {gain:+.4f}" for section, gain in options[name].items())
    report(
        f"Scores without ground truth, {len(cases['unlabeled'])} cases, Dice below {LOW}: {len(low)}",
        rows,
        {"cases": {s: len(f) for s, f in cases.items()}, "scores": figures, "options": options, "per_case": cases},
        chosen.json,
    )


if __name__ == "__main__":
    main()
