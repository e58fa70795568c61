"""MLflow by MONAI's ``tracking`` switch: what a run leaves, and how it is marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import TERMS, Run

from simcvd_bundle.runs.tracking import plain_values

mlflow = pytest.importorskip("mlflow")

INTERRUPT = '{"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": 1, "error": "%s"}]}'


def client(folder: Path) -> Any:
    return mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")


def runs(folder: Path) -> list[Any]:
    """MLflow's runs of a run folder, newest first."""
    experiment = client(folder).get_experiment_by_name("monai_experiment")
    found: list[Any] = client(folder).search_runs([experiment.experiment_id])
    return found


def files(folder: Path, run: Any) -> set[str]:
    return {file.path for file in client(folder).list_artifacts(run.info.run_id)}


def test_a_training_leaves_metrics_parameters_and_weights(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json", tracking="mlflow")
    (run,) = runs(tmp_path / "run")
    assert run.info.status == "FINISHED"
    assert {f"loss_{t}" for t in TERMS} | {"val_mean_dice", "teacher_mean_dice"} <= set(run.data.metrics)
    expected = {"num_labeled": "2", "contrastive_weight": "0.5", "patch_size": "[16, 16, 16]", "max_epochs": "2"}
    assert expected.items() <= run.data.params.items()
    assert {name[:7] for name in files(tmp_path / "run", run)} == {"config_", "model.p"}


def test_the_last_validation_may_come_after_the_training(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json", tracking="mlflow", val_interval=5)
    (run,) = runs(tmp_path / "run")
    assert run.info.status == "FINISHED"
    assert "val_mean_dice" in run.data.metrics


@pytest.mark.parametrize(("error", "status"), [("RuntimeError", "FAILED"), ("KeyboardInterrupt", "KILLED")])
def test_a_broken_training_is_marked_and_not_continued(
    run_bundle: Run, tmp_path: Path, error: str, status: str
) -> None:
    overlay = tmp_path / "interrupt.json"
    overlay.write_text(INTERRUPT % error)
    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        run_bundle("train.json", str(overlay), tracking="mlflow")
    assert [run.info.status for run in runs(tmp_path / "run")] == [status]
    run_bundle("train.json", tracking="mlflow", run_name="second")
    assert [run.info.status for run in runs(tmp_path / "run")] == ["FINISHED", status]


def test_failing_to_write_the_weights_marks_the_run(run_bundle: Run, tmp_path: Path) -> None:
    (tmp_path / "models" / "model.pt").mkdir(parents=True)  # a folder where the file should be
    with pytest.raises(RuntimeError):
        run_bundle("train.json", tracking="mlflow")
    assert [run.info.status for run in runs(tmp_path / "run")] == ["FAILED"]


def test_an_evaluation_leaves_its_tables(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json")
    run_bundle("train.json", "evaluate.json", tracking="mlflow", output_dir=str(tmp_path / "eval"))
    (run,) = runs(tmp_path / "eval")
    assert run.info.status == "FINISHED"
    assert "val_mean_dice" in run.data.metrics
    assert {"per_case.csv", "summary.json"} <= files(tmp_path / "eval", run)
    assert not (tmp_path / "eval" / "tensorboard").exists()


def test_parameters_are_the_plain_values() -> None:
    config = {
        "a": 1, "b": None, "c": "text", "d": [1, [2.5, True]], "e": "@a", "f": "$1 + 1", "g": {"_target_": "x"},
        "h": ["$@a"],
    }  # fmt: skip
    assert plain_values(config) == {"a": 1, "b": None, "c": "text", "d": [1, [2.5, True]]}
