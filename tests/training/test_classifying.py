"""Classification as a user runs it: train, evaluate, classify a folder; from a pre-trained encoder; resumed."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run

CONFIG = "classify.json"


def run_id(run_bundle: Run, name: str, tmp_path: Path, **settings: Any) -> Any:
    """Run another list of the config than ``run``."""
    overlay = tmp_path / f"{name}.json"
    overlay.write_text(json.dumps({"run": json.loads((ROOT / "configs" / CONFIG).read_text())[name]}))
    return run_bundle(CONFIG, str(overlay), **settings)


def test_train_evaluate_and_classify_a_folder(
    run_bundle: Run, subjects_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"dataset_dir": subjects_dir, "ckpt_dir": str(tmp_path / "run")}
    with caplog.at_level("INFO"):
        workflow = run_bundle(CONFIG, **own)
    assert re.search(r"Validation val_accuracy of the network after 2 iterations: \d\.\d+", caplog.text)
    written = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert written["head.3.weight"].shape == (3, 8)
    assert workflow.parser.get_parsed_content("loss").losses["classification"].weights.tolist() == [1, 1, 1]
    run_id(run_bundle, "evaluating", tmp_path, **own)
    folder = tmp_path / "run" / "eval_test"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["scans"]["n"], summary["subjects"]["n"]) == (12, 6)
    rows = list(csv.DictReader((folder / "per_case.csv").open()))
    assert [row["class"] for row in rows] == [name for name in ("small", "medium", "large") * 2 for _ in "ab"]
    assert all(sum(float(row[f"p_{n}"]) for n in summary["classes"]) == pytest.approx(1, abs=1e-5) for row in rows)
    run_id(run_bundle, "evaluating", tmp_path, scans_dir=str(subjects_dir / "images"), **own)
    assert len(list(csv.DictReader((tmp_path / "run" / "eval_scans" / "per_case.csv").open()))) == 48


def test_the_head_starts_from_the_first_layer_of_the_projection_head(
    run_bundle: Run, subjects_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in SimCLRv2; the last layer is of another width and stays random."""
    run_bundle("pretrain.json", dataset_dir=subjects_dir, output_dir=str(tmp_path / "pre"))
    with caplog.at_level("INFO"):
        run_bundle(CONFIG, dataset_dir=subjects_dir, pretrained=str(tmp_path / "pre" / "model.pt"), learning_rate=1e-12)
    first, second = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("pre", "run"))
    for name, tensor in first.items():
        if not name.startswith("head.3") and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(second[name], tensor)
    assert re.search(r"Loaded .* network\.head \(\d\); left out: network\.head\.3", caplog.text)


def test_resume_equals_the_uninterrupted_run(run_bundle: Run, subjects_dir: Path, tmp_path: Path) -> None:
    whole = {"iterations": 4, "epoch_length": 2, "dataset_dir": subjects_dir, "val_interval": 1}
    run_bundle(CONFIG, **whole, output_dir=str(tmp_path / "whole"))
    overlay = tmp_path / "interrupt.json"
    overlay.write_text('{"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": 3}]}')
    parts = {**whole, "output_dir": str(tmp_path / "parts")}
    with pytest.raises(KeyboardInterrupt):
        run_bundle(CONFIG, str(overlay), **parts)
    run_bundle(CONFIG, **parts, resume=True)
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "checkpoint_4.pt", weights_only=True)["student"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_what_training_and_classification_share_is_the_same() -> None:
    train, classify = (json.loads((ROOT / "configs" / name).read_text()) for name in ("train.json", CONFIG))
    assert train["image_transforms"] == classify["image_transforms"][:-1]
    for name in ("normalize", "in_channels", "orientation", "spacing", "strides", "kernel_sizes"):
        assert train[name] == classify[name], name
    assert train["train"]["trainer"] == classify["train"]["trainer"]
