"""The run folder: one process at a time, settings that a resumed run must share, errors before training."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from processes import start, wait

from simcvd_bundle.runs.config import check_values
from simcvd_bundle.runs.folder import lock_folder, make_writable, prepare_folder
from simcvd_bundle.utils.errors import root_cause

HOLD = """
import os, sys, time
from pathlib import Path
from simcvd_bundle.runs.folder import lock_folder
lock_folder(Path(sys.argv[1]))
if os.fork():  # the child lives on, as a loader's worker may
    print("ready", flush=True)
time.sleep(600)
"""


def test_a_folder_belongs_to_one_process_until_that_is_killed(tmp_path: Path) -> None:
    """Although its worker lives on."""
    script, log, folder = tmp_path / "hold.py", tmp_path / "log.txt", tmp_path / "run"
    script.write_text(HOLD)
    folder.mkdir()
    pid = start([str(script), str(folder)], log)
    try:
        while not log.exists() or "ready" not in log.read_text():
            time.sleep(0.01)
        message = f"process {pid} of .* is training in {re.escape(str(folder))}: wait for it.*--output_dir"
        for _ in range(2):
            with pytest.raises(BlockingIOError, match=message):
                lock_folder(folder)
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        lock_folder(folder)
        lock_folder(folder)  # this process's own
    finally:
        os.killpg(pid, signal.SIGKILL)


def test_former_runs_are_numbered_whatever_else_is_called_previous(tmp_path: Path) -> None:
    """Folders that a user renamed or made stay, and do not count."""
    run, models = tmp_path / "run", tmp_path / "models"
    for name in ("previous_1.old", "previous_7", "previous_x", "previous_9 copy", "my_previous_12"):
        (run / name).mkdir(parents=True)
    (run / "model.pt").write_text("former")
    prepare_folder(str(run), str(models))
    assert (run / "previous_8" / "model.pt").read_text() == "former"
    assert (run / "previous_1.old").is_dir()
    (run / "model.pt").write_text("second")
    prepare_folder(str(run), str(models), resume=True)
    assert (run / "model.pt").read_text() == "second"


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"ckpt_dir .*file/models cannot be written .*choose another --ckpt_dir"):
        make_writable(tmp_path / "file" / "models", "ckpt_dir")
    make_writable(tmp_path / "new" / "models", "ckpt_dir")
    assert list((tmp_path / "new" / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"learning_rate": 0.1}, "learning_rate was 0.01 and is now 0.1"),
        ({"network_def::base_channels": 4}, "network_def::base_channels was 2 and is now 4"),
        ({"num_labeled": 3}, "num_labeled was 2 and is now 3; training cases was 5, 2 of them labeled"),
        ({"epoch_length": 2}, "epoch_length was 1 and is now 2"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    run_bundle: Run, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run_bundle("train.json", **{"validate::dataset::data": []})
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", resume=True, **{"validate::dataset::data": []}, **change)
    text = str(root_cause(error.value))
    assert f"{tmp_path / 'run' / 'checkpoints' / 'checkpoint_2.pt'} does not fit this configuration" in text
    assert message in text
    assert {path: path.read_bytes() for path in files} == files


def test_settings_that_do_not_matter_may_change(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json")
    run_bundle("train.json", resume=True, iterations=3, num_workers=1, log_interval=2, val_interval=1)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_3.pt").is_file()


def test_unfinished_files_of_a_killed_run_are_removed(run_bundle: Run, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("run/.unfinished_1_model.pt", "run/checkpoints/.unfinished_1_checkpoint_1.pt"):
        (tmp_path / name).touch()
    run_bundle("train.json", **{"validate::dataset::data": []})
    assert not list((tmp_path / "run").rglob(".unfinished_*"))


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("iterations", 0, 1), ("iterations", 2.5, 2), ("iterations", True, 1), ("unlabeled_batch_size", -1, 0),
        ("sdm_weight", -0.1, 0), ("sdm_weight", float("nan"), 0.5), ("learning_rate", 0, 1e-6), ("ema_decay", 1, 0.5),
        ("flip_prob", 1.1, 1), ("patch_size", [1, 2], [1, 2, 3]), ("patch_size", [1, 2, 0], "$[1, 2, 3]"),
        ("class_names", {"0": "a"}, {"1": "a"}), ("class_names", {}, "@labels"), ("resume", "True", True),
        ("num_labeled", 0, None), ("output_dir", "", "a"), ("seed", None, 3),
    ],
)  # fmt: skip
def test_values_that_an_id_cannot_take(name: str, bad: Any, good: Any) -> None:
    check_values({name: good}, {name: None if good is None else good})
    with pytest.raises(ValueError, match=f"^{name} is "):
        check_values({name: bad}, {name: 0})


@pytest.mark.parametrize("value", [201802, 100000.0, True])
@pytest.mark.parametrize("name", ["dataset_dir", "output_dir", "cache_dir", "datalist"])
def test_a_name_that_the_command_line_made_a_number_is_told_as_that(name: str, value: Any) -> None:
    message = f"{name} is {value}, but must be the name of a file or folder: set --{name} (MONAI's command line reads"
    with pytest.raises(ValueError, match=re.escape(message) + r".*: write \./2018_02\)"):
        check_values({name: value}, {name: "a"})


def test_cases_that_failed_do_not_stop_the_others(run_bundle: Run, dataset_dir: Path, tmp_path: Path) -> None:
    """In one batch: unreadable, too many channels, and good ones; the list comes at the end, as an error."""

    run_bundle("train.json", **{"validate::dataset::data": []})
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(3):
        shutil.copy(dataset_dir / f"image_{number}.nii.gz", scans)
    (scans / "image_1.nii.gz").write_bytes(b"damaged")
    shutil.copy(scans / "image_0.nii.gz", scans / "again.nii.gz")
    with pytest.raises(RuntimeError) as error:
        run_bundle("inference.json", workflow_type="infer", dataset_dir=str(scans), output_dir=str(tmp_path / "masks"),
                   weights=str(tmp_path / "models" / "model.pt"), num_workers=1)  # fmt: skip
    message = str(root_cause(error.value))
    assert message.startswith(f"1 cases failed, all others are written. Mend or remove them and run again:\n  {scans}")
    assert "image_1.nii.gz: " in message
    written = sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz"))
    assert written == ["again_seg.nii.gz", "image_0_seg.nii.gz", "image_2_seg.nii.gz"]
