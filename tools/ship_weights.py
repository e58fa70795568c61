"""Make a finished run of ``experiment`` the bundle's weights: models/model.pt, and beside it how they came about.

models/model.pt holds floats in half precision, which halves the file; a network that loads it keeps its own precision.
models/record holds the run's settings and starts and the SHA-256 of the file (record.json, config.json), means of its
terms (terms.csv) and its evaluation (per_case.csv, summary.json). Folders of this machine appear in none of them.

    python tools/ship_weights.py runs/simcvd_16_seed0 eval_unlabeled_window [--note TEXT]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from simcvd_bundle.commands.report.curves import load_curves  # noqa: E402
from simcvd_bundle.runs.weights import write_tensors  # noqa: E402
from simcvd_bundle.utils.atomic import atomically, digest, write_json  # noqa: E402

MEAN_OF = 100
"""Iterations that a row of terms.csv is the mean of."""


def ship(run: Path, evaluation: str, models: Path, note: str = "") -> None:
    """Write weights and record.

    Args:
        run: folder that ``experiment`` made.
        evaluation: folder of the run's evaluation, in ``run``.
        models: folder to write to.
        note: text for record.json, on what its settings do not show.

    Raises:
        FileNotFoundError: when the run or its evaluation is not finished.
        ValueError: when half precision cannot hold a value of the weights.
    """
    trained, cases = run / "model.pt", run / evaluation / "per_case.csv"
    texts = [run / "record.json", run / "config.json", run / evaluation / "summary.json"]
    missing = [str(file) for file in (trained, cases, *texts) if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} is missing: let the experiment finish first.")
    weights = {name: halved(name, tensor) for name, tensor in torch.load(trained, weights_only=True).items()}
    contents = {file.name: without_folders(json.loads(file.read_text(encoding="utf-8"))) for file in texts}
    write_terms(run, models / "record" / "terms.csv")  # first: it fails when the run has no logs
    write_tensors(models / "model.pt", weights)
    contents["record.json"] |= {"note": note, "sha256": digest(models / "model.pt")}
    for name, content in contents.items():
        write_json(models / "record" / name, content)
    shutil.copyfile(cases, models / "record" / "per_case.csv")


def halved(name: str, tensor: Tensor) -> Tensor:
    """The tensor with 16 bits a float."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    if not half.isfinite().all():
        raise ValueError(f"{name} has values beyond half precision: ship the weights of the run as they are.")
    return half


def without_folders(content: Any) -> Any:
    """A copy of JSON content in which absolute paths are cut to their last part."""
    if isinstance(content, dict):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    return Path(content).name if isinstance(content, str) and os.path.isabs(content) else content


def write_terms(run: Path, file: Path) -> None:
    """Write the mean of each term and weight that the run logged, ``MEAN_OF`` iterations a row."""
    curves = {tag: dict(zip(*curve, strict=True)) for tag, curve in load_curves(str(run)).items()}
    terms = {tag: curve for tag, curve in curves.items() if tag.split("_")[0] in ("loss", "weight")}
    last = max(max(curve) for curve in terms.values())
    with atomically(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["iterations", *terms])
        for first in range(1, last + 1, MEAN_OF):
            end = min(first + MEAN_OF - 1, last)
            steps = range(first, end + 1)
            means = (statistics.mean(curve[s] for s in steps if s in curve) for curve in terms.values())
            writer.writerow([f"{first}-{end}", *(f"{mean:.4f}" for mean in means)])


def main() -> None:
    """Ship and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder that experiment made")
    parser.add_argument("evaluation", help="folder of its evaluation, such as eval_unlabeled_window")
    parser.add_argument("--note", default="", help="for record.json: what the settings do not show")
    chosen = parser.parse_args()
    models = ROOT / "models"
    ship(chosen.run, chosen.evaluation, models, chosen.note)
    print(f"Wrote {models / 'model.pt'} ({(models / 'model.pt').stat().st_size / 1e6:.1f} MB) and {models / 'record'}")


if __name__ == "__main__":
    main()
