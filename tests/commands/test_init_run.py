"""From a folder to masks and a page in one command, and iterations that fit into the time."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
from conftest import TINY

from simcvd_bundle.__main__ import main
from simcvd_bundle.commands.init import certainty_page, command, init, planning, timing
from simcvd_bundle.commands.init.timing import Seconds, Work, fit_to_time, iterations_within, measure, work_of
from simcvd_bundle.data import phantom_dataset

NAMES = ("device", "precision", "num_workers", "head_pool_size", "network_def::base_channels")
SMALL = {name: TINY[name] for name in NAMES}
SUBJECT = r"p\d"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Phantoms of five subjects, each scan called alike in a folder of its own; two labelled. Trainings are tiny."""
    source = Path(phantom_dataset(str(tmp_path / "source"), shape=(30, 30, 30), num_training=5))
    root = tmp_path / "my data"
    for number in range(5):
        for kind in ("image", "label") if number < 2 else ("image",):
            (root / f"p{number}").mkdir(parents=True, exist_ok=True)
            shutil.copy(source / f"{kind}s" / f"training_{number:02d}.nii.gz", root / f"p{number}" / f"{kind}.nii.gz")

    def small(*arguments: Any) -> Any:
        overlay, reasons = planning.plan(*arguments)
        return overlay | SMALL, reasons

    monkeypatch.setattr(command, "plan", small)
    monkeypatch.setattr(command, "ITERATIONS", 2)
    monkeypatch.setattr(command, "MAX_PATCH_VOXELS", 16**3)
    monkeypatch.chdir(tmp_path)
    return root


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["simcvd_bundle", "init", *words, "--max_patch_voxels", "4096"])
    main()


# masks and a page


def test_one_command_ends_in_masks_and_a_page_and_a_second_one_keeps_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "my data", "--train", "True", "--subject", SUBJECT)
    run = folder / "mine_run_1"
    printed = capsys.readouterr().out
    for name in ("masks", "report.html", "train/model.pt", "log.txt"):
        assert f"mine_run_1/{name}" in printed
        assert (run / name).exists()
    masks = sorted(path.relative_to(run / "masks").as_posix() for path in (run / "masks").rglob("*.nii.gz"))
    assert masks == [f"p{number}/image_seg.nii.gz" for number in (2, 3, 4)]
    assert nib.load(run / "masks" / masks[0]).shape == (30, 30, 30)
    page = (run / "report.html").read_text()
    assert page.count("<img") >= 9
    (proposed,) = re.findall(r"run init again: (.*?)\.<", page.replace("\n", " ").replace("</p>", "<"))
    assert sorted(name.strip() for name in re.findall(r"p\d/image\.nii\.gz", proposed)) == [
        f"p{number}/image.nii.gz" for number in (2, 3, 4)
    ]
    for rank in ("worst", "median", "best"):
        assert f"{rank}: p" in page
    assert "Iteration 2 of 2" in (run / "log.txt").read_text()
    assert not (folder / "mine_run_1" / "predictions").exists()

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="--overwrite True replaces it"):
        call(monkeypatch, "my data", "--train", "True")
    call(monkeypatch, "my data", "--train", "True", "--overwrite", "True", "--num_labeled", "1")
    assert {path: path.read_bytes() for path in before} == before
    second = folder / "mine_run_2"
    assert len(list((second / "masks").rglob("*.nii.gz"))) == 4  # the hidden label's scan too; no mask is taken for one
    assert json.loads((run / "data_mine.json").read_text()) != json.loads((second / "data_mine.json").read_text())
    assert (run / "dataset.json").is_file()


def test_an_interrupted_run_continues_by_the_same_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The training is not repeated when segmenting was interrupted."""
    with monkeypatch.context() as patch:
        patch.setattr("simcvd_bundle.commands.init.running._segment", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            call(patch, "my data", "--train", "True")
    run = folder / "mine_run_1"
    (run / "train" / "model.pt").unlink()  # as if the training had been interrupted after its last checkpoint
    kept = sorted((run / "train" / "checkpoints").iterdir())
    with caplog.at_level(logging.INFO):
        call(monkeypatch, "my data", "--train", "True")
    assert "Continuing the training" in caplog.text
    assert "Resumed from" in caplog.text
    assert sorted((run / "train" / "checkpoints").iterdir()) == kept
    assert (run / "report.html").is_file()
    assert not (folder / "mine_run_2").exists()


def test_a_damaged_scan_is_named_on_the_page_and_the_others_get_masks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = "simcvd_bundle.commands.init.running._train"

    def then_damage(*arguments: Any) -> None:
        original(*arguments)
        (folder / "p3" / "image.nii.gz").write_bytes(b"no image")

    from simcvd_bundle.commands.init import running

    original = running._train
    monkeypatch.setattr(train, then_damage)
    call(monkeypatch, "my data", "--train", "True")
    page = (folder / "mine_run_1" / "report.html").read_text()
    assert "Scans without a mask" in page
    assert "1 cases failed" in page
    assert len(list((folder / "mine_run_1" / "masks").rglob("*.nii.gz"))) == 2


def test_one_scan_of_a_subject_is_proposed_and_five_at_most() -> None:
    files = [f"/d/p{subject}/{frame}.nii" for subject in range(7) for frame in "ab"]
    assert certainty_page.label_next(files, "/d", r"p(\d)") == [f"p{subject}/a.nii" for subject in range(5)]
    assert certainty_page.label_next(files[:3], "/d", None) == ["p0/a.nii", "p0/b.nii", "p1/a.nii"]


# time


def test_iterations_by_hand() -> None:
    """40 s of starts, 10 of preparing, (2 * 6 * 2 + 5) * 3 of inference leave 3103 of 3240 s for steps of 2 s."""
    assert iterations_within(1, Seconds(2, 1, 3), Work(10, 1, 5)) == 1550
    assert iterations_within(0.01, Seconds(2, 1, 3), Work(10, 1, 5)) == 0


def plan_for(max_voxels: int) -> Any:
    return {"patch_size": max_voxels}, {"patch": str(max_voxels)}


@pytest.mark.parametrize(
    ("hours", "patch", "iterations"), [(2, 800, 3200), (0.5, 400, 1550), (0.2, 200, 1200)],
)  # fmt: skip
def test_the_patch_is_halved_until_enough_iterations_fit(
    monkeypatch: pytest.MonkeyPatch, hours: float, patch: int, iterations: int
) -> None:
    monkeypatch.setattr(timing, "measure", lambda overlay, _: Seconds(overlay["patch_size"] / 400, 0, 0))
    overlay, reasons = fit_to_time(hours, plan_for, 800, [], Work(1, 0, 1))
    assert overlay == {"patch_size": patch, "iterations": iterations}
    assert reasons["patch"] == str(patch)
    assert f"{hours:g} h: a training step takes {patch / 400:.3g} s here" in reasons["time"]
    assert f"{iterations} iterations, done by" in reasons["time"]
    assert ("halved" in reasons["time"]) == (patch < 800)


def test_too_little_time_is_an_error_that_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "measure", lambda *_: Seconds(10, 0, 0))
    with pytest.raises(ValueError, match=r"--hours 0\.1 is too short: a training step takes 10 s .* at least 0\.18"):
        fit_to_time(0.1, plan_for, 800, [], Work(1, 0, 1))
    assert iterations_within(0.18, Seconds(10, 0, 0), Work(1, 0, 1)) == 50


def test_the_measured_step_is_that_of_the_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 0.2 s more; two labelled and two unlabelled cases of the five take part, and nothing is left behind."""
    init(str(folder), max_patch_voxels=16**3)
    sections = json.loads((folder / "dataset.json").read_text())
    items, work = work_of(sections, folder, num_labeled=1)
    assert [("label" in item, Path(item["image"]).parent.name) for item in items[:3]] == [
        (True, "p0"), (False, "p1"), (False, "p2"),
    ]  # fmt: skip
    assert work == Work(5, 0, 4)
    overlay = json.loads((folder / "data_mine.json").read_text())
    seen: list[int] = []

    def slow(engine: Any, ends: list[float]) -> None:
        original(engine, ends)
        if len(ends) > timing.WARM_UP:
            seen.append(len(engine.state.dataloader.dataset.data))
            ends[-1] += 0.2 * (len(ends) - timing.WARM_UP)  # as if the clock had run on

    original = timing._note
    plain = measure(overlay, items)
    monkeypatch.setattr(timing, "_note", slow)
    slower = measure(overlay, items)
    assert set(seen) == {3}
    assert min(plain.step, plain.preparing, plain.segmenting) > 0
    assert slower.step > 0.2
    assert not (folder / "checkpoints").exists()


def test_the_chosen_iterations_stand_in_the_overlay_and_are_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(timing, "measure", lambda *_: Seconds(2, 0, 0))
    call(monkeypatch, "my data", "--hours", "2")
    overlay = json.loads((folder / "data_mine.json").read_text())
    assert overlay["iterations"] == 3200
    assert "time        2 h: a training step takes 2 s here" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--hours is -1, but must be a number above 0"):
        call(monkeypatch, "my data", "--hours", "-1", "--overwrite", "True")
