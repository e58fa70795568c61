"""The benchmarks run as a user runs them and write the figures that they promise."""

from __future__ import annotations

import importlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from processes import run as run_python


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """An overlay."""
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(TINY))
    return str(file)


def run(tmp_path: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Figures of a benchmark that is run from another folder."""
    command = [str(ROOT / "benchmarks" / script), "--json", "figures.json", *arguments]
    code, output = run_python(command, tmp_path / "log.txt", tmp_path)
    assert code == 0, output
    figures: dict[str, Any] = json.loads((tmp_path / "figures.json").read_text())
    assert "torch" in figures["hardware"]
    assert script in figures["command"]
    return figures


def test_train_step(tmp_path: Path, dataset_dir: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")  # a new process that loads nothing
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)
    figures = run(
        tmp_path, "train_step.py", "--precision", "float32", "--patch", "16", "16", "16", "--rounds", "1",
        "--num_workers", "1", "--config_file", tiny, "--dataset_dir", str(dataset_dir),
    )  # fmt: skip
    assert figures["ratio"] == pytest.approx(figures["iteration_s"] / figures["floor_s"])
    assert figures["ratio"] > 0.5
    assert 0 <= figures["data_wait_fraction"] < 1
    assert figures["peak_memory_gib"] > figures["workers_gib"] > 0
    assert min(figures["first_caching_s"], figures["second_caching_s"]) > 0
    assert {"forward", "losses", "backward", "  L_contrastive"} <= set(figures["parts_s"])
    assert sum(v for k, v in figures["parts_s"].items() if k[0] != " ") < 3 * figures["iteration_s"]


def test_methods(tmp_path: Path, dataset_dir: Path, tiny: str) -> None:
    figures = run(
        tmp_path, "methods.py", "--methods", "method_supervised", "method_ua_mt", "method_bcp", "--rounds", "1",
        "--precision", "float32", "--config_file", tiny, "--dataset_dir", str(dataset_dir),
    )["methods"]  # fmt: skip
    patches = {name: (one["student_patches"], one["teacher_patches"]) for name, one in figures.items()}
    assert patches == {"method_supervised": (4, 0), "method_ua_mt": (4, 2 + 8 * 2), "method_bcp": (4, 4)}
    for one in figures.values():
        assert one["ratio"] == pytest.approx(one["iteration_s"] / one["floor_s"])
        assert one["peak_memory_gib"] > 0


def test_inference(tmp_path: Path, dataset_dir: Path, tiny: str) -> None:
    figures = run(
        tmp_path, "inference.py", "--precision", "float32", "--cases", "2", "--config_file", tiny,
        "--dataset_dir", str(dataset_dir),
    )  # fmt: skip
    assert figures["cases"] == 2
    assert figures["speedup"] == pytest.approx(figures["window_s"] / figures["fast_s"])
    assert figures["dice_difference"] == pytest.approx(figures["fast_dice"] - figures["window_dice"])


def test_sanity(tmp_path: Path, dataset_dir: Path, trained_run: Path) -> None:
    tiny = tmp_path / "tiny.json"
    tiny.write_text(json.dumps({**TINY, "sdm_weight": 0.0, "patch_size": [32, 16, 16]}))
    figures = run(
        tmp_path, "sanity.py", "--config_file", str(tiny), "--dataset_dir", str(dataset_dir),
        "--cache_dir", str(tmp_path / "cache"), "--checkpoint", str(trained_run / "run/checkpoints/checkpoint_2.pt"),
        "--batches", "2", "--cases", "1",
    )  # fmt: skip
    gradients = figures["gradients"]
    assert gradients["segmentation"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert gradients["segmentation"]["sdm"] == gradients["sdm"]["all"] == 0
    assert gradients["distillation"]["decoder"] == 0 < gradients["distillation"]["encoder"]
    assert gradients["contrastive"]["sdm"] > 0 == gradients["contrastive"]["segmentation"]
    assert gradients["consistency"]["segmentation"] > 0
    assert figures["num_slices"] == 32
    assert all(0 <= found["own"] + found["neighbor"] <= 1 for found in figures["retrieval"].values())
    assert {name: len(scores) for name, scores in figures["dice"].items()} == {"student": 1, "teacher": 1}


def test_label_rounds(tmp_path: Path) -> None:
    """The two comparisons with the pool begin with the same round."""
    arguments = ("--seeds", "0", "--iterations", "2", "--pool", "9", "--test", "2")
    figures = run(tmp_path, "label_rounds.py", *arguments)["dice"]
    assert [len(rounds) for arm in figures.values() for rounds in arm] == [3, 3, 3]
    assert all(0 <= dice <= 1 for arm in figures.values() for rounds in arm for dice in rounds)
    assert figures["pool, random"][0][0] == figures["pool, disagreement"][0][0]


def test_the_ct_phantoms_have_a_small_object_and_its_likes(tmp_path: Path) -> None:
    command = [str(ROOT / "benchmarks" / "ct_phantoms.py"), "--output_dir", "ct", "--scans", "1"]
    code, output = run_python(command, tmp_path / "log.txt", tmp_path)
    assert code == 0, output
    image, label = (nib.load(tmp_path / "ct" / part / "scan_00.nii.gz") for part in ("images", "labels"))
    voxels, lesion = np.asarray(image.dataobj), np.asarray(label.dataobj) > 0
    assert voxels.shape == lesion.shape == (200, 200, 150)
    assert voxels.dtype == np.int16
    assert 5e-4 < lesion.mean() < 2e-3
    assert np.median(voxels[lesion]) == pytest.approx(55, abs=6)  # blurred
    assert voxels.min() < -500  # init takes it for a CT


def test_the_checks_of_a_gpu_skip_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, output = run_python([str(ROOT / "benchmarks" / "gpu_check.py")], tmp_path / "log.txt", tmp_path)
    assert code == 0, output
    assert f"SKIPPED: torch {torch.__version__} sees no GPU" in output


@pytest.mark.slow
def test_the_checks_of_a_gpu_work_on_a_cpu(tmp_path: Path) -> None:
    """Those that a CPU can do."""
    names = ["overflow", "precisions", "repeat", "step", "loader", "half", "waits"]
    figures = run(tmp_path, "gpu_check.py", "--device", "cpu", "--patch", "16", "16", "16", "--only", *names)
    assert figures["failed"] == []
    assert figures["waits"] == "on CUDA only"
    assert figures["repeat float32, average pooling"] == "repeated True, resumed True"


def test_folds_of_patients_and_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patient is on one side of a fold and left out once; the classes are dealt out evenly."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    acdc: Any = importlib.import_module("acdc_classification")
    assert [acdc.group_of(f"patient{n:03d}") for n in (1, 20, 21, 41, 80, 100)] == [
        "DCM", "DCM", "HCM", "MINF", "NOR", "RV",
    ]  # fmt: skip
    names = [f"patient{n:03d}" for n in (*range(1, 11), *range(21, 31))]
    items = [{"image": f"{name}_{scan}.nii.gz", "subject": name} for name in names for scan in "ab"]
    folds = acdc.folds_of(items, 5)
    left_out = [item["image"] for _, test in folds for item in test]
    assert sorted(left_out) == sorted(item["image"] for item in items)
    for training, test in folds:
        assert not {item["subject"] for item in training} & {item["subject"] for item in test}
        assert len(training) + len(test) == len(items)
        groups = [acdc.group_of(item["subject"]) for item in test]
        assert groups.count("DCM") == groups.count("HCM") == 4
