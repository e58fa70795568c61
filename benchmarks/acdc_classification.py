"""Classes of ACDC's patients, cross-validated by patient: random start, encoders of ``view`` and of ``patient`` pairs.

The classes follow from the numbers that the patients have in the ACDC training set: 001-020 dilated cardiomyopathy
(DCM), 021-040 hypertrophic (HCM), 041-060 infarction (MINF), 061-080 normal (NOR), 081-100 right ventricle (RV). Each
fold pre-trains on the scans of its training patients only, then trains three classifiers that differ in their start and
scores them on the patients left out. Scores are those of all left-out scans and patients together.

    python benchmarks/acdc_classification.py --dataset_dir ACDC --output_dir runs/acdc --json acdc.json
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.subjects import scans_by_subject
from simcvd_bundle.evaluation.classification import classification_scores

GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")
ARMS = ("random", "view", "patient")
THICK = {"strides": [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]], "kernel_sizes": [[3, 3, 1]] * 2 + [[3, 3, 3]] * 3}
"""Ten slices of 10 mm cannot be halved four times."""

Item = dict[str, Any]


def group_of(patient: str) -> str:
    """Class of a patient such as ``patient023``."""
    return GROUPS[(int(re.sub(r"\D", "", patient)) - 1) // 20]


def labelled(dataset_dir: str) -> list[Item]:
    """All scans with ``subject`` and ``class``, whatever sections they are in."""
    names = [
        name for name, part in json.loads(Path(dataset_dir, "dataset.json").read_text()).items()
        if isinstance(part, list) and part
    ]  # fmt: skip
    items = [item for name in names for item in load_datalist(dataset_dir, "images" if name == "training" else name)]
    for item in items:
        found = re.search(r"patient\d+", str(item["image"]))
        if not found:
            raise ValueError(f"{item['image']} names no patientNNN: the classes follow from the patient's number.")
        item |= {"subject": found[0], "class": group_of(found[0])}
        item.pop("label", None)
    return items


def folds_of(items: list[Item], folds: int, seed: int = 0) -> list[tuple[list[Item], list[Item]]]:
    """Training and left-out items of each fold: patients, the ones of a class dealt out in turn."""
    random = np.random.default_rng(seed)
    groups = scans_by_subject(items)
    order = sorted(random.permutation(sorted(groups)).tolist(), key=group_of)
    return [
        (
            [items[n] for number, who in enumerate(order) if number % folds != fold for n in groups[who]],
            [items[n] for number, who in enumerate(order) if number % folds == fold for n in groups[who]],
        )
        for fold in range(folds)
    ]


def bundle(run_id: str, config: str, settings: dict[str, Any]) -> None:
    """Run a config of the bundle in a process of its own, unless its result is there."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", f"configs/{config}.json"]
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    subprocess.run([*command, *words], cwd=common.ROOT, check=True)


def main() -> None:
    """Run all folds and arms, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", default="runs/acdc_classification")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--pretraining", type=int, default=500, help="iterations")
    parser.add_argument("--iterations", type=int, default=300, help="of each classifier")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--patch", type=int, nargs=3, default=[96, 96, 10], help="of pre-training")
    parser.add_argument("--scan", type=int, nargs=3, default=[160, 160, 10], help="of classification")
    parser.add_argument("--base_channels", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    root = Path(arguments.output_dir).resolve()
    items = labelled(arguments.dataset_dir)
    classes = [group for group in GROUPS if any(item["class"] == group for item in items)]
    common_settings = {
        "bundle_root": common.ROOT, "dataset_dir": Path(arguments.dataset_dir).resolve(), "seed": arguments.seed,
        "cache_dir": root / "cache", "batch_size": arguments.batch_size,
        "network_def::base_channels": arguments.base_channels, **THICK,
    }  # fmt: skip
    rows: dict[str, list[dict[str, str]]] = {arm: [] for arm in ARMS}
    for number, (training, test) in enumerate(folds_of(items, arguments.folds, arguments.seed)):
        folder = root / f"fold_{number}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps({"training": training, "test": test}))
        settings = {**common_settings, "datalist": folder / "dataset.json"}
        for arm in ARMS:
            start = {}
            if arm != "random":
                pretrained = folder / f"pretrained_{arm}"
                start = {"pretrained": pretrained / "model.pt"}
                if not start["pretrained"].is_file():
                    own = {"pairs": arm, "patch_size": arguments.patch, "iterations": arguments.pretraining}
                    bundle("pretraining", "pretrain", {**settings, **own, "output_dir": pretrained})
            own = {"classes": classes, "patch_size": arguments.scan, "output_dir": folder / arm}
            if not (folder / arm / "model.pt").is_file():
                bundle("classifying", "classify", {**settings, **own, **start, "iterations": arguments.iterations})
            if not (folder / arm / "eval_test" / "summary.json").is_file():
                bundle("evaluating", "classify", {**settings, **own})
            rows[arm] += csv.DictReader((folder / arm / "eval_test" / "per_case.csv").open())
    figures: dict[str, Any] = {"hardware": common.hardware(), "command": " ".join(sys.argv), "patients": len(
        scans_by_subject(items)), "classes": classes}  # fmt: skip
    for arm, table in rows.items():
        figures[arm] = pooled(table, classes)
        scores = {name: figures[arm]["subjects"][name] for name in ("top1", "balanced_accuracy", "auc")}
        print(arm, *(f"{k} {v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})" for k, v in scores.items()), sep="  ")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=4))


def pooled(table: list[dict[str, str]], classes: list[str]) -> dict[str, Any]:
    """Scores of all left-out scans, and of patients by the mean over their scans."""
    scans = np.array([[float(row[f"p_{name}"]) for name in classes] for row in table])
    owners = [row["subject"] for row in table]
    truth = np.array([classes.index(row["class"]) for row in table])
    patients = list(dict.fromkeys(owners))
    own = [np.array(owners) == patient for patient in patients]
    means = np.array([scans[rows].mean(0) for rows in own])
    return {
        "scans": classification_scores(scans, truth, owners),
        "subjects": classification_scores(means, np.array([truth[rows][0] for rows in own]), patients),
    }


if __name__ == "__main__":
    main()
