"""The list of experiments: plan, folds, interruption, failures."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY

from simcvd_bundle.commands import experiment as experiments
from simcvd_bundle.commands.arguments import parse_numbers
from simcvd_bundle.commands.experiment import experiment, plan
from simcvd_bundle.data.datalists import write_folds
from simcvd_bundle.utils.atomic import write_json

OVERRIDES = {name: value for name, value in TINY.items() if name not in ("bundle_root", "num_labeled", "log_interval")}


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    """An overlay outside of the bundle."""
    file = tmp_path / "data_mine.json"
    file.write_text(json.dumps({"num_labeled": 3, "cache_dir": str(tmp_path / "cache")}))
    return str(file)


def test_plan_orders_runs_by_seed_then_labels_then_experiment(overlay: str) -> None:
    names = ["simcvd", "method_supervised", "ablation_no_sdm_loss+ablation_head_pool_16"]
    runs = plan(names, overlay, [3, 2], [0, 1], {"iterations": 5})
    assert [run.name for run in runs[:4]] == [
        "simcvd_3_seed0", "supervised_3_seed0", "no_sdm_loss+head_pool_16_3_seed0", "simcvd_2_seed0",
    ]  # fmt: skip
    assert len({run.name for run in runs}) == 12
    assert [Path(file).name for file in runs[2].files] == [
        "train.json", "data_mine.json", "ablation_no_sdm_loss.json", "ablation_head_pool_16.json",
    ]  # fmt: skip
    assert runs[-1].overrides == {"iterations": 5, "num_labeled": 2, "seed": 1, "log_interval": 1}
    assert "num_labeled" not in plan(["simcvd"], overlay, None, [0], {})[0].overrides


def test_an_unknown_overlay_is_refused_before_anything_runs(overlay: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"No overlay method_supervise: .* simcvd, .*method_supervised"):
        experiment(str(tmp_path), overlay, ["simcvd", "method_supervise"], output_dir=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_folds_partition_the_labeled_cases_and_hide_the_held_out_ones(dataset_dir: Path, tmp_path: Path) -> None:
    files = write_folds(str(dataset_dir), 2, tmp_path)
    contents = [json.loads(file.read_text()) for file in files]
    held_out = [[Path(item["image"]).name for item in content["validation"]] for content in contents]
    assert held_out == [["image_0.nii.gz", "image_2.nii.gz"], ["image_1.nii.gz"]]
    for content, names in zip(contents, held_out, strict=True):
        trained = {Path(item["image"]).name for item in content["training"]}
        assert trained == {f"image_{number}.nii.gz" for number in range(5)} - set(names)
        assert sum("label" in item for item in content["training"]) == 3 - len(names)
        assert all(Path(item["label"]).is_file() for item in content["validation"])


def test_folds_treat_hidden_labels_as_unlabeled(dataset_dir: Path, tmp_path: Path) -> None:
    contents = [json.loads(file.read_text()) for file in write_folds(str(dataset_dir), 2, tmp_path, num_labeled=2)]
    assert [len(content["validation"]) for content in contents] == [1, 1]
    assert [[item for item in content["training"] if "label" not in item] for content in contents] == [
        [{"image": str(dataset_dir / f"image_{number}.nii.gz")} for number in (2, 3, 4)]
    ] * 2


@pytest.mark.parametrize("folds", [1, 4])
def test_folds_must_fit(dataset_dir: Path, tmp_path: Path, folds: int) -> None:
    with pytest.raises(ValueError, match=f"folds is {folds}, but 3 cases are labelled"):
        write_folds(str(dataset_dir), folds, tmp_path)
    assert not list(tmp_path.iterdir())


def test_numbers_on_the_command_line() -> None:
    assert parse_numbers("[16, 8]") == [16, 8]
    assert parse_numbers("4") == [4]
    with pytest.raises(ValueError, match=r"'\[a\]' is no list of whole numbers"):
        parse_numbers("[a]")


def test_other_settings_in_a_used_folder_are_refused(
    overlay: str, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(experiments, "_bundle", lambda run_id, *_: calls.append(run_id))
    arguments: dict[str, Any] = {"experiments": ["simcvd"], "output_dir": str(tmp_path / "runs")}
    for iterations in (5, 6):
        with pytest.raises(ValueError, match="1 of 1 runs failed: simcvd_seed0"):
            experiment(str(dataset_dir), overlay, iterations=iterations, **arguments)
    assert calls == ["training"]
    assert "made with another iterations" in caplog.text


def test_a_score_of_empty_masks_only_is_logged(
    overlay: str, dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation in which no Dice is defined."""

    def finished(run_id: str, files: Any, settings: dict[str, Any], folder: Path, device: int) -> bool:
        (folder / "model.pt").touch()
        if run_id == "evaluating":
            write_json(settings["output_dir"] / "summary.json", {"overall": {"dice": statistics}})
        return True

    statistics = {"mean": None, "std": None, "n": 0, "excluded": 2}
    monkeypatch.setattr(experiments, "_bundle", finished)
    with caplog.at_level(logging.INFO):
        experiment(str(dataset_dir), overlay, ["simcvd"], output_dir=str(tmp_path / "runs"), inference_mode="fast")
    assert "simcvd_seed0: Dice undefined, as all masks are empty (test, fast)" in caplog.text


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(
    overlay: str, dataset_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "method_bad.json"
    bad.write_text(json.dumps({"iteration": 3}))
    caplog.set_level(logging.INFO)
    arguments: dict[str, Any] = {**OVERRIDES, "inference_mode": "fast", "output_dir": str(tmp_path / "runs")}
    with pytest.raises(ValueError, match="1 of 2 runs failed: bad_2_seed0"):
        experiment(str(dataset_dir), overlay, [str(bad), "method_supervised"], num_labeled=[2], **arguments)
    assert "Unknown" in caplog.text
    assert "log.txt" in caplog.text
    assert (tmp_path / "runs/supervised_2_seed0/eval_test_fast/summary.json").is_file()


@pytest.mark.slow
def test_a_killed_experiment_continues_and_finished_runs_are_kept(
    overlay: str, dataset_dir: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    options = {**OVERRIDES, "iterations": 30, "val_interval": 100, "checkpoint_interval": 1, "output_dir": runs}
    options |= {"inference_mode": "fast", "folds": 2, "experiments": "method_supervised"}
    command = [sys.executable, "-m", "simcvd_bundle", "experiment", str(dataset_dir), overlay]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    started = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    second = runs / "supervised_seed0_fold1"
    deadline = time.monotonic() + 300
    while not list(second.glob("checkpoints/checkpoint_*.pt")):
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not (second / "model.pt").exists()
    first = (runs / "supervised_seed0_fold0/model.pt").stat().st_mtime_ns

    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)

    assert "supervised_seed0_fold1: training, continued" in done.stderr
    assert "supervised_seed0_fold0: training" not in done.stderr
    assert (runs / "supervised_seed0_fold0/model.pt").stat().st_mtime_ns == first
    for number, starts in enumerate((1, 2)):
        folder = runs / f"supervised_seed0_fold{number}"
        record = json.loads((folder / "record.json").read_text())
        assert len(record["starts"]) == starts
        assert record["starts"][0]["packages"]["torch"] == torch.__version__
        assert json.loads((folder / "config.json").read_text())["iterations"] == 30
        summary = json.loads((folder / "eval_validation_fast/summary.json").read_text())
        assert summary["num_cases"] == (2, 1)[number]
        assert torch.load(folder / "model.pt", weights_only=True)
