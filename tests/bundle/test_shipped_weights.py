"""The weights in models/: the file, its record, the tool that writes both, and the figures in the documents."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from monai.bundle import ConfigParser
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

sys.path.insert(0, str(ROOT / "tools"))
from ship_weights import ship

RECORD = ROOT / "models" / "record"
APPENDED = {"/checkpoints", "/models", "/runs", "/tensorboard"}
"""Folders that expressions of the config append to others (``@bundle_root + '/models'``)."""


def read(name: str) -> Any:
    return json.loads((RECORD / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped() -> Path:
    """The file that the record belongs to; a training on this machine, such as the demo, may have moved it."""
    digest = read("record.json")["sha256"]
    models = ROOT / "models"
    for file in (models / "model.pt", models / "replaced" / f"model_{digest[:12]}.pt"):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            return file
    pytest.fail("Neither models/model.pt nor models/replaced holds the weights that models/record describes.")


@pytest.fixture(scope="module")
def weights(shipped: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(shipped, weights_only=True)
    return content


def test_the_weights_are_flat_small_and_half(shipped: Path, weights: dict[str, Tensor]) -> None:
    assert shipped.stat().st_size < 20e6
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16, torch.int64}
    assert all(tensor.device.type == "cpu" for tensor in weights.values())


def test_inference_loads_them_as_float32(shipped: Path, weights: dict[str, Tensor]) -> None:
    parser = ConfigParser()
    parser.read_config(ROOT / "configs" / "inference.json")
    parser["bundle_root"], parser["weights"], parser["device"] = str(ROOT), str(shipped), "cpu"
    parser.get_parsed_content("load")
    state = parser.get_parsed_content("network").state_dict()
    assert state.keys() == weights.keys()
    for name, tensor in state.items():
        assert tensor.dtype == (torch.float32 if weights[name].is_floating_point() else torch.int64)
        torch.testing.assert_close(tensor, weights[name].to(tensor.dtype), rtol=0, atol=0)


def test_inference_has_the_patch_and_classes_of_the_weights() -> None:
    inference = json.loads((ROOT / "configs" / "inference.json").read_text())
    trained = read("config.json")
    for name in ("patch_size", "class_names", "in_channels"):
        assert inference[name] == trained[name], name


def test_the_record_names_no_folder_and_the_run() -> None:
    record = read("record.json")
    assert record["run"]["files"] == ["train.json", "data_la.json"]
    assert all(start["commit"] and start["hardware"] for start in record["starts"])
    for file in RECORD.iterdir():
        assert set(re.findall(r"(?<!\w)/\w+", file.read_text(encoding="utf-8"))) <= APPENDED, file.name


def test_the_documents_have_the_figures_of_the_record() -> None:
    summary = read("summary.json")
    with (RECORD / "per_case.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == summary["num_cases"]
    scores = {name: summary["overall"][name] for name in ("dice", "jaccard", "asd_voxel", "hd95_voxel")}
    assert scores["dice"]["mean"] == pytest.approx(sum(float(row["dice"]) for row in rows) / len(rows))
    factors = {name: 100 if name in ("dice", "jaccard") else 1 for name in scores}
    cells = {n: f"{f * scores[n]['mean']:.2f} +- {f * scores[n]['std']:.2f}" for n, f in factors.items()}
    for document in (ROOT / "docs" / "results.md", ROOT / "docs" / "README.md"):
        assert " | ".join(cells.values()) in document.read_text(encoding="utf-8"), document
    dice = sorted(100 * float(row["dice"]) for row in rows)
    median, low = statistics.median(dice), sum(score < 60 for score in dice)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"| {cells['dice']} | {median:.1f} | {low} | {cells['hd95_voxel']} |" in readme
    assert f"Dice {dice[len(dice) // 2]:.1f} %" in readme, "the case of the picture"
    metrics = json.loads((ROOT / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert metrics["mean_dice"] == round(scores["dice"]["mean"], 4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run as ``experiment`` leaves it, with 150 iterations that were logged from the tenth on."""
    folder = tmp_path / "run"
    (folder / "eval").mkdir(parents=True)
    torch.save({"a": torch.tensor([0.1, 2.0]), "n": torch.tensor(7)}, folder / "model.pt")
    record = {"run": {"files": ["train.json"], "dataset_dir": "/somewhere/la"}, "starts": [{"commit": "abc"}]}
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "config.json").write_text(json.dumps({"cache_dir": "/somewhere/cache", "patch_size": [1, 2]}))
    (folder / "eval" / "summary.json").write_text(json.dumps({"info": {"weights": "/somewhere/model.pt"}}))
    (folder / "eval" / "per_case.csv").write_text("case,dice\na,0.5\n")
    with SummaryWriter(str(folder / "tensorboard")) as writer:  # type: ignore[no-untyped-call]
        for step in range(10, 151):
            writer.add_scalar("loss_sdm", float(step), step)  # type: ignore[no-untyped-call]
            writer.add_scalar("student_mean_dice", 0.5, step)  # type: ignore[no-untyped-call]
    return folder


def test_shipping_halves_the_weights_and_keeps_the_record(run: Path, tmp_path: Path) -> None:
    ship(run, "eval", tmp_path / "models", note="slow")
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert torch.equal(weights["a"], torch.tensor([0.1, 2.0]).half())
    assert weights["n"] == 7
    assert weights["n"].dtype == torch.int64
    content = {path.name: path.read_text() for path in (tmp_path / "models" / "record").iterdir()}
    assert content.keys() == {"record.json", "config.json", "summary.json", "per_case.csv", "terms.csv"}
    record = json.loads(content["record.json"])
    assert record["sha256"] == hashlib.sha256((tmp_path / "models" / "model.pt").read_bytes()).hexdigest()
    assert record["run"]["dataset_dir"] == "la"
    assert (record["starts"], record["note"]) == ([{"commit": "abc"}], "slow")
    assert json.loads(content["config.json"]) == {"cache_dir": "cache", "patch_size": [1, 2]}
    assert json.loads(content["summary.json"])["info"]["weights"] == "model.pt"
    assert content["per_case.csv"] == "case,dice\na,0.5\n"
    assert list(csv.reader(content["terms.csv"].splitlines())) == [
        ["iterations", "loss_sdm"], ["1-100", "55.0000"], ["101-150", "125.5000"],
    ]  # fmt: skip


def test_what_cannot_be_shipped_leaves_the_former_weights(run: Path, tmp_path: Path) -> None:
    former = tmp_path / "models" / "model.pt"
    former.parent.mkdir()
    former.write_bytes(b"former")
    with pytest.raises(FileNotFoundError, match=r"other.summary\.json is missing: let the experiment finish"):
        ship(run, "other", tmp_path / "models")
    torch.save({"a": torch.tensor([70000.0])}, run / "model.pt")
    with pytest.raises(ValueError, match="a has values beyond half precision"):
        ship(run, "eval", tmp_path / "models")
    assert {path.name for path in former.parent.iterdir()} == {"model.pt"}
    assert former.read_bytes() == b"former"
