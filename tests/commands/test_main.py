"""The command line: help texts, and errors in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from fire.parser import DefaultParseValue

from simcvd_bundle.__main__ import main
from simcvd_bundle.commands.arguments import argument
from simcvd_bundle.utils.atomic import write_json


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["simcvd_bundle", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return str(stop.value)


def test_user_errors_end_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    message = run(monkeypatch, "prepare", "la", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert message.startswith(f"error: {tmp_path / 'absent'} is not a folder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["la", "la_h5", "pancreas", "msd"])
def test_every_command_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    assert run(monkeypatch, "prepare", source, "--", "--help") == "0"
    text = "".join(capsys.readouterr())
    assert f"simcvd_bundle prepare {source}" in text
    assert "folder to write" in text


def test_report_has_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "report", "--", "--help") == "0"
    assert "output folders of evaluations" in "".join(capsys.readouterr())


NUMBERS = ["2018_02", "1e5", "007", "True", "0x10", "None"]
"""Names of folders that Python reads as something else."""


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize(
    "words",
    ["init NAME", "report NAME", "report --evaluations NAME", "prepare la NAME out", "prepare la_h5 NAME out",
     "prepare pancreas NAME NAME out", "prepare msd NAME out", "experiment . NAME"],
)  # fmt: skip
def test_names_that_look_like_numbers_stay_texts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    message = run(monkeypatch, *words.replace("NAME", name).split())
    assert message.startswith((f"error: {name}", "error: No overlay"))
    assert name in message


def test_msd_is_prepared_from_and_to_folders_called_by_a_date(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    label = np.zeros((6, 5, 4), np.uint8)
    label[2:4] = 1
    for kind, array in (("imagesTr", label + np.random.default_rng(0).normal(size=label.shape)), ("labelsTr", label)):
        (tmp_path / "2018_01" / kind).mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "2018_01" / kind / "a.nii.gz")
    index = {"name": "x", "labels": {"0": "b", "1": "c"}, "modality": {"0": "MRI"}}
    item = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    write_json(tmp_path / "2018_01" / "dataset.json", {**index, "training": [item]})
    monkeypatch.setattr(sys, "argv", ["simcvd_bundle", "prepare", "msd", "2018_01", "2018_02"])
    main()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2018_01", "2018_02"]
    assert (tmp_path / "2018_02" / "dataset.json").is_file()


@pytest.mark.parametrize("name", NUMBERS)
def test_names_in_overrides_of_experiment_reach_the_runs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As they are, while numbers stay numbers; and the command line of a run gives them back."""
    given: list[Any] = []
    monkeypatch.setattr("simcvd_bundle.commands.experiment.plan", lambda *arguments: given.extend(arguments) or [])
    words = ["--cache_dir", name, "--datalist", name, "--learning_rate", "1e-3", "--eval_section", "none"]
    monkeypatch.setattr(sys, "argv", ["simcvd_bundle", "experiment", name, "data_la", *words])
    main()
    overrides = given[4]
    assert (Path(overrides["dataset_dir"]).name, overrides["cache_dir"], overrides["datalist"]) == (name,) * 3
    assert overrides["learning_rate"] == 1e-3


@pytest.mark.parametrize("value", [*NUMBERS, 3, 1e-3, True, None, [1, 2], ["a"], {"1": "a b"}, "$@x + 1", "a b", "é"])
def test_an_argument_is_read_back_as_it_was(value: Any) -> None:
    assert DefaultParseValue(argument(value)) == value
