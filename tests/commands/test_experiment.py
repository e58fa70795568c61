"""The list of experiments: plan, folds, interruption, failures."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run
from processes import subprocess_run

from simcvd_bundle.commands import experiment as experiments
from simcvd_bundle.commands.arguments import parse_numbers
from simcvd_bundle.commands.experiment import experiment, plan, visible_devices
from simcvd_bundle.data.folds import write_folds
from simcvd_bundle.utils.atomic import write_json
from simcvd_bundle.utils.errors import root_cause

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


def test_all_is_simcvd_and_every_method_without_a_trained_teacher(overlay: str) -> None:
    names = {run.name.removesuffix("_seed0") for run in plan(["all"], overlay, None, [0], {})}
    files = {file.stem.removeprefix("method_") for file in (ROOT / "configs").glob("method_*.json")}
    assert names == files - {"distillation"} | {"simcvd"}
    assert len(names) > 10


def test_methods_that_exclude_each_other_are_refused_before_anything_runs(overlay: str) -> None:
    runs = plan(["method_ua_mt+method_dtc"], overlay, None, [0], {})
    assert runs[0].name == "ua_mt+dtc_seed0"
    with pytest.raises(ValueError, match=r"mc_net\+urpc_seed0: method_mc_net and method_urpc exclude each other"):
        plan(["method_mc_net+method_urpc"], overlay, None, [0], {})


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


def test_folds_of_several_numbers_of_labels_have_files_of_their_own(dataset_dir: Path, tmp_path: Path) -> None:
    first = write_folds(str(dataset_dir), 2, tmp_path, num_labeled=3)
    before = [file.read_text() for file in first]
    second = write_folds(str(dataset_dir), 2, tmp_path, num_labeled=2)
    assert not set(first) & set(second)
    assert [file.read_text() for file in first] == before
    assert write_folds(str(dataset_dir), 2, tmp_path, num_labeled=3) == first
    with pytest.raises(ValueError, match=r"fold_0.json is of another number of folds .*choose another output_dir"):
        write_folds(str(dataset_dir), 3, tmp_path, num_labeled=3)
    assert [file.read_text() for file in first] == before


def test_overlays_of_one_name_do_not_share_a_folder(overlay: str, tmp_path: Path) -> None:
    files = [tmp_path / name / "method_x.json" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(json.dumps({"sdm_weight": 0}))
    with pytest.raises(ValueError, match=r"a/method_x.json and .*b/method_x.json would share the folder x_seed0"):
        plan([str(file) for file in files], overlay, None, [0], {})


def test_an_unreadable_overlay_and_an_impossible_value_are_refused(overlay: str, tmp_path: Path) -> None:
    bad = tmp_path / "method_bad.json"
    bad.write_text("{")
    with pytest.raises(ValueError, match=r"method_bad.json cannot be read"):
        plan([str(bad)], overlay, None, [0], {})
    with pytest.raises(ValueError, match=r"patch_size is \{1\}, which a config cannot hold"):
        plan(["simcvd"], overlay, None, [0], {"patch_size": {1}})


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ("unlabeled", "simcvd_seed0 cannot be evaluated: Section 'unlabeled' of .* is empty, .* set num_labeled"),
        ("tests", "simcvd_seed0 cannot be evaluated: .*'tests'.*test"),
    ],
)
def test_a_section_without_cases_is_refused_before_anything_runs(
    dataset_dir: Path, tmp_path: Path, section: str, match: str
) -> None:
    overlay = tmp_path / "data_all.json"
    overlay.write_text("{}")
    with pytest.raises(ValueError, match=match):
        experiment(str(dataset_dir), str(overlay), ["simcvd"], output_dir=str(tmp_path / "runs"), eval_section=section)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        ("5, 7", 2, ["5", "7"]),
        ("MIG-a,MIG-b,-1,2", 2, ["MIG-a", "MIG-b"]),
        ("3", 1, [None]),
        ("", 0, [None]),
        (None, 3, ["0", "1", "2"]),
    ],
)
def test_runs_share_the_given_gpus(
    monkeypatch: pytest.MonkeyPatch, given: str | None, count: int, expected: list[str | None]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_devices() == expected


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle in forks of this process instead of fresh ones."""
    replaced = SimpleNamespace(run=subprocess_run, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(experiments, "subprocess", replaced)


@pytest.mark.usefixtures("forked")
def test_a_finished_run_is_kept_and_other_settings_are_refused(
    overlay: str, dataset_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also with values that JSON writes otherwise: tuples, and numbers as keys."""
    runs = tmp_path / "runs"
    arguments: dict[str, Any] = {
        **OVERRIDES, "patch_size": (16, 16, 16), "class_names": {1: "ball"}, "output_dir": str(runs),
        "inference_mode": "fast", "experiments": ["method_supervised"],
    }  # fmt: skip
    caplog.set_level(logging.INFO)
    experiment(str(dataset_dir), overlay, **arguments)
    folder = runs / "supervised_seed0"
    masks = sorted(path.name for path in (folder / "eval_test_fast").iterdir())
    assert masks == ["image_6_seg.nii.gz", "image_7_seg.nii.gz", "per_case.csv", "summary.json"]
    assert "supervised_seed0: Dice " in caplog.text
    written = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}

    experiment(str(dataset_dir), overlay, **arguments)
    with pytest.raises(ValueError, match="1 of 1 runs failed: supervised_seed0"):
        experiment(str(dataset_dir), overlay, **{**arguments, "iterations": 3})
    assert "made with another iterations" in caplog.text
    Path(overlay).write_text(json.dumps({**json.loads(Path(overlay).read_text()), "temperature": 0.25}))
    with pytest.raises(ValueError, match="1 of 1 runs failed"):
        experiment(str(dataset_dir), overlay, **arguments)
    assert "made with another content of overlays" in caplog.text
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == written


def test_kept_masks_have_the_values_of_the_label_files(
    dataset_dir: Path, trained_run: Path, run_bundle: Run, tmp_path: Path
) -> None:
    data = shutil.copytree(dataset_dir, tmp_path / "data")
    for file in data.glob("label_*"):
        label = nib.load(file)
        nib.save(nib.Nifti1Image(5 * np.asarray(label.dataobj), label.affine), file)
    settings: dict[str, Any] = {
        "dataset_dir": data, "weights": str(trained_run / "run/model.pt"), "save_predictions": True,
        "inference_mode": "fast", "label_values": {"0": 0, "5": 1},
    }  # fmt: skip
    run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), **settings)
    with (tmp_path / "eval/per_case.csv").open(newline="") as stream:
        dice = {row["case"]: float(row["dice"]) for row in csv.DictReader(stream)}
    for number in (6, 7):
        mask, label = (
            nib.load(f) for f in (tmp_path / f"eval/image_{number}_seg.nii.gz", data / f"label_{number}.nii.gz")
        )
        assert set(np.unique(mask.dataobj)) == {0, 5}
        assert np.allclose(mask.affine, label.affine)
        p, y = (np.asarray(image.dataobj) == 5 for image in (mask, label))
        assert dice[f"label_{number}"] == pytest.approx(2 * (p & y).sum() / (p.sum() + y.sum()))


def test_an_evaluation_whose_masks_cannot_be_written_is_not_finished(
    trained_run: Path, run_bundle: Run, tmp_path: Path
) -> None:
    (tmp_path / "eval/image_6_seg.nii.gz/full").mkdir(parents=True)
    settings = {"weights": str(trained_run / "run/model.pt"), "save_predictions": True, "inference_mode": "fast"}
    with pytest.raises(RuntimeError) as failed:
        run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), **settings)
    assert "image_6.nii.gz: a result cannot be written" in str(root_cause(failed.value))
    assert not (tmp_path / "eval/summary.json").exists()


def test_a_text_does_not_switch_the_masks_on(trained_run: Path, run_bundle: Run, tmp_path: Path) -> None:
    """MONAI's command line makes a text of ``false``, which would count as true."""
    settings = {"weights": str(trained_run / "run/model.pt"), "save_predictions": "false"}
    with pytest.raises(RuntimeError) as failed:
        run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), **settings)
    assert "save_predictions is 'false': write True or False" in str(root_cause(failed.value))


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_folds_of_several_numbers_of_labels_validate_on_their_own(
    overlay: str, dataset_dir: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {**OVERRIDES, "inference_mode": "fast", "experiments": ["method_supervised"]}
    experiment(str(dataset_dir), overlay, folds=2, num_labeled=[2, 3], output_dir=str(tmp_path), **arguments)
    cases = {}
    for number, fold in itertools.product((2, 3), range(2)):
        table = tmp_path / f"supervised_{number}_seed0_fold{fold}/eval_validation_fast/per_case.csv"
        with table.open(newline="") as stream:
            cases[number, fold] = [row["case"] for row in csv.DictReader(stream)]
    assert cases == {
        (2, 0): ["label_0"], (2, 1): ["label_1"], (3, 0): ["label_0", "label_2"], (3, 1): ["label_1"],
    }  # fmt: skip


@pytest.mark.usefixtures("forked")
def test_a_score_of_empty_masks_only_is_logged(
    overlay: str, dataset_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation in which no Dice is defined."""
    folder = tmp_path / "runs/simcvd_seed0"
    arguments: dict[str, Any] = {"output_dir": str(tmp_path / "runs"), "inference_mode": "fast"}
    with pytest.raises(ValueError, match="1 of 1 runs failed"):
        experiment(str(dataset_dir), overlay, ["simcvd"], iterations=0, **arguments)
    (folder / "model.pt").touch()
    statistics = {"mean": None, "std": None, "n": 0, "excluded": 2}
    write_json(folder / "eval_test_fast/summary.json", {"overall": {"dice": statistics}})
    with caplog.at_level(logging.INFO):
        experiment(str(dataset_dir), overlay, ["simcvd"], iterations=0, **arguments)
    assert "simcvd_seed0: Dice undefined, as all masks are empty (test, fast)" in caplog.text


@pytest.mark.usefixtures("forked")
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
