"""Tests of the evaluation report on real engines: contents, names, reruns, aborted runs and two processes."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.data.meta_tensor import MetaTensor
from monai.engines.evaluator import SupervisedEvaluator
from monai.transforms.post.dictionary import AsDiscreted
from torch.multiprocessing.spawn import start_processes

from simcvd_bundle.evaluation.handler import EvaluationReport, distinct_case_names
from simcvd_bundle.evaluation.metrics import METRICS

AFFINE = torch.diag(torch.tensor([-2.0, 1.0, 0.5, 1.0], dtype=torch.float64))
CLASSES = {"0": "background", "1": "left", "2": "right"}
Voxels = dict[int, list[tuple[slice | int, int, int]]]


def volume(voxels: Voxels, path: str) -> MetaTensor:
    """A (1, 6, 4, 4) class-index volume with 2 x 1 x 0.5 mm voxels."""
    out = torch.zeros(1, 6, 4, 4)
    for index, places in voxels.items():
        for place in places:
            out[0][place] = index
    return MetaTensor(out, affine=AFFINE, meta={"filename_or_obj": path} if path else {})


def item(pred: Voxels, label: Voxels, path: str = "data/a.nii.gz") -> dict[str, MetaTensor]:
    """One decollated item; the image carries the class indices that are to be predicted."""
    return {"image": volume(pred, "data/scan.nii.gz"), "label": volume(label, path), "pred": volume(pred, "")}


# left: line against point, missed, invented; right: perfect, absent, perfect
A = item({1: [(slice(0, 4), 0, 0)], 2: [(5, 3, 3)]}, {1: [(0, 0, 0)], 2: [(5, 3, 3)]}, "data/a.nii.gz")
B = item({}, {1: [(1, 1, 1)]}, "data/b.nii.gz")
C = item({1: [(2, 2, 2)], 2: [(0, 3, 0)]}, {2: [(0, 3, 0)]}, "data/c.nii.gz")
DIAGONAL_VOXEL, DIAGONAL_MM = math.sqrt(36 + 16 + 16), math.sqrt(144 + 16 + 4)


def run(report: EvaluationReport, items: list[Any]) -> Engine:
    """Run an engine that yields the given items, one an iteration."""
    engine = Engine(lambda _, batch: [batch])
    report.attach(engine)
    engine.run(items)
    return engine


def read(folder: Path) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """The contents of the two files."""
    with (folder / "per_case.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((folder / "summary.json").read_text(encoding="utf-8"))


class OneHotOfImage(torch.nn.Module):
    """A network whose logits are the one-hot code of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W, D) class indices to (B, 3, H, W, D) logits."""
        return torch.cat([(x == index).float() for index in range(3)], dim=1)


def test_supervised_evaluator_writes_both_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A whole MONAI evaluation: every row, the statistics and the log."""
    data = [{key: case[key] for key in ("image", "label")} for case in (C, A, B)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=OneHotOfImage(),
        postprocessing=AsDiscreted("pred", argmax=True),
    )
    folder = tmp_path / "new" / "report"
    EvaluationReport(folder, CLASSES, info={"section": "test"}, name="my.report").attach(evaluator)
    with caplog.at_level(logging.INFO, logger="my.report"):
        evaluator.run()

    rows, summary = read(folder)
    assert list(rows[0]) == ["case", "class", *METRICS, "note"]
    assert [(row["case"], row["class"], row["note"]) for row in rows] == [
        ("a", "left", ""),
        ("a", "right", ""),
        ("b", "left", "empty prediction"),
        ("b", "right", "both empty"),
        ("c", "left", "empty label"),
        ("c", "right", ""),
    ]
    values = [[float(row[metric]) for metric in METRICS] for row in rows]
    worst = [0, 0, *[DIAGONAL_VOXEL, DIAGONAL_MM] * 3]
    assert values[0] == pytest.approx([0.4, 0.25, 2.8, 5.6, 1.5, 3.0, 0.75, 1.5])  # x has 2 mm
    assert values[1] == values[5] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert values[2] == values[4] == pytest.approx(worst)
    assert values[3] == pytest.approx([math.nan] * 8, nan_ok=True)

    assert list(summary) == ["info", "num_cases", "num_empty_predictions", "overall", "classes", "failures"]
    assert (summary["info"], summary["num_cases"], summary["num_empty_predictions"]) == ({"section": "test"}, 3, 1)
    assert summary["failures"] == [
        {"case": "b", "class": "left", "note": "empty prediction"},
        {"case": "c", "class": "left", "note": "empty label"},
    ]
    assert list(summary["classes"]) == ["left", "right"]
    assert list(summary["overall"]) == list(summary["classes"]["left"]) == list(METRICS)
    assert summary["classes"]["right"]["dice"] == {"mean": 1, "std": 0, "n": 2, "excluded": 1}
    left = summary["classes"]["left"]["hd95_mm"]
    assert left["mean"] == pytest.approx((5.6 + 2 * DIAGONAL_MM) / 3)
    assert (left["n"], left["excluded"]) == (3, 0)
    # 0.4, 0, 0, 1, 1: squared deviations from 0.48 add up to 1.008
    overall = {"mean": pytest.approx(0.48), "std": pytest.approx(math.sqrt(1.008 / 5)), "n": 5, "excluded": 1}
    assert summary["overall"]["dice"] == overall
    assert (evaluator.state.metrics, evaluator.state.best_metric) == ({}, -1)

    record = caplog.records[-1]
    assert (record.name, record.levelno) == ("my.report", logging.INFO)
    lines = record.getMessage().splitlines()
    assert lines[0] == "3 cases, 1 empty predictions, mean ± std:"
    assert lines[1].split() == ["dice", "%", "jaccard", "%", *METRICS[2:], "n", "excluded"]
    assert f"  {left['mean']:.2f} ± {left['std']:.2f}  " in lines[2]
    assert lines[3].startswith("right    100.00 ± 0.00  100.00 ± 0.00  0.00 ± 0.00")
    assert lines[4].startswith("overall  48.00 ± 44.90")
    assert lines[4].endswith("  5  1")
    assert lines[5:] == [str(folder / "per_case.csv"), str(folder / "summary.json")]


def test_nothing_to_measure_is_null(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A mean over no case is null in JSON, not NaN, and a dash in the log."""
    with caplog.at_level(logging.INFO):
        run(EvaluationReport(tmp_path, {1: "left"}), [item({}, {})])
    assert re.search(r"overall  (-\s+){8}0  1", caplog.text)
    assert read(tmp_path)[1]["overall"]["dice"] == {"mean": None, "std": None, "n": 0, "excluded": 1}


def test_rerun_replaces_only_its_own_files(tmp_path: Path) -> None:
    """No row of the first run stays, and no other file goes."""
    (tmp_path / "notes.txt").write_text("kept")
    report = EvaluationReport(tmp_path, CLASSES)
    engine = run(report, [A, B])
    engine.run([C])
    assert {row["case"] for row in read(tmp_path)[0]} == {"c"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "per_case.csv", "summary.json"]
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_aborted_run_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a terminated run nor one that raised leaves a report."""
    engine = Engine(lambda _, batch: [batch])
    EvaluationReport(tmp_path / "out", CLASSES).attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: engine.terminate())
    engine.run([A, B])
    assert "terminated: no report" in caplog.text
    with pytest.raises(KeyError, match="pred"):
        run(EvaluationReport(tmp_path / "out", CLASSES), [A, {"label": B["label"]}])
    assert not (tmp_path / "out").exists()


def test_failed_write_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are replaced in one step each, and no temporary file stays."""
    run(EvaluationReport(tmp_path, CLASSES), [A])
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    for function, owner in (("replace", os), ("write_text", Path)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, full_disk)
            with pytest.raises(OSError, match="disk full"):
                run(EvaluationReport(tmp_path, CLASSES), [B])
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_case_names(tmp_path: Path) -> None:
    """Stems, distinct where folders differ; the label's file first, then the image's."""
    paths = [
        "r/p1/la.nii.gz",
        "r/p2/la.nii.gz",
        "s/p2/la.nii.gz",
        "r/p1/1.2.84.nii.gz",
        "x.nrrd",
        "y/z.nii",
        "y/z.nii.gz",
    ]
    names = ["p1/la", "r/p2/la", "s/p2/la", "1.2.84", "x", "y/z.nii", "y/z.nii.gz"]
    assert distinct_case_names(paths) == dict(zip(paths, names, strict=True))
    twins = [item({}, {1: [(0, 0, 0)]}, f"{folder}/la.nii.gz") for folder in ("p2", "p1")]
    run(EvaluationReport(tmp_path, {"1": "left"}), twins)
    assert [row["case"] for row in read(tmp_path)[0]] == ["p1/la", "p2/la"]
    unnamed = {**A, "label": volume({1: [(0, 0, 0)]}, "")}  # only the image knows its file
    run(EvaluationReport(tmp_path, {"1": "left"}), [unnamed])
    assert [row["case"] for row in read(tmp_path)[0]] == ["scan"]


def distributed_worker(rank: int, folder: str) -> None:
    """Rank 0 measures a and b, rank 1 measures b again and c; each has its own output folder."""
    os.environ["LOCAL_RANK"] = str(rank)
    store, timeout = f"file://{folder}/store", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timeout)
    run(EvaluationReport(Path(folder) / f"rank{rank}", CLASSES), [[A, B], [B, C]][rank])
    engine = Engine(lambda _, batch: [batch])
    EvaluationReport(Path(folder) / f"terminated{rank}", CLASSES).attach(engine)
    if rank == 1:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda: engine.terminate())
    engine.run([A, B])
    dist.destroy_process_group()


def test_two_processes_write_one_report(tmp_path: Path) -> None:
    """Rows of both ranks, each case once."""
    start_processes(distributed_worker, (str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    rows, summary = read(tmp_path / "rank0")
    assert [row["case"] + row["class"][0] for row in rows] == ["al", "ar", "bl", "br", "cl", "cr"]
    assert (summary["num_cases"], summary["overall"]["dice"]["n"]) == (3, 5)
    for folder in ("rank1", "terminated0", "terminated1"):  # only rank 0 writes, and only if no rank was terminated
        assert not (tmp_path / folder).exists()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"label": A["label"].as_tensor()}, TypeError, "label must be a MetaTensor, for its spacing, got Tensor"),
        ({"pred": torch.zeros(3, 6, 4, 4)}, ValueError, "one channel, got 3 and 1"),
        ({"pred": torch.zeros(1, 6, 4, 5)}, ValueError, "same shape"),
        ({"label": volume({}, ""), "image": np.zeros(1)}, ValueError, "no file name|neither label nor image"),
    ],
)
def test_unusable_output(tmp_path: Path, change: dict[str, Any], error: type[Exception], match: str) -> None:
    """A clear error instead of a wrong report."""
    with pytest.raises(error, match=match):
        run(EvaluationReport(tmp_path, CLASSES), [A | change])
    assert list(tmp_path.iterdir()) == []


def test_output_must_be_decollated(tmp_path: Path) -> None:
    """A dict of batches is refused."""
    engine = Engine(lambda _, batch: batch)
    EvaluationReport(tmp_path, CLASSES).attach(engine)
    with pytest.raises(TypeError, match="decollated list, got dict"):
        engine.run([A])


def test_unusable_arguments(tmp_path: Path) -> None:
    """Found at construction, before the evaluation."""
    for class_names in ({"0": "background"}, {"1": "left", "2": "left"}):
        message = f"every foreground class its own name, got {json.dumps(class_names)}"
        with pytest.raises(ValueError, match=re.escape(message)):
            EvaluationReport(tmp_path, class_names)
    with pytest.raises(TypeError, match="not JSON serializable"):
        EvaluationReport(tmp_path, CLASSES, info={"device": torch.device("cpu")})
