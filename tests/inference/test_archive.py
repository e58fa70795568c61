"""Batch inference over an archive: shares, restarts, other settings, a full disk, memory."""

from __future__ import annotations

import csv
import errno
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import Run
from ignite.engine import Engine, Events
from probes import AboveMean
from torch import Tensor

from simcvd_bundle.utils.errors import root_cause

PROBE = {"_target_": "probes.AboveMean"}
Segment = Callable[..., None]


def write_scan(file: Path, seed: int) -> None:
    random = np.random.RandomState(seed)
    nib.save(nib.Nifti1Image(random.rand(6, 5, 4).astype(np.float32), np.diag([2.0, 2.0, 5.0, 1.0])), file)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(5):
        write_scan(folder / f"{number}.nii.gz", number)
    return folder


@pytest.fixture
def segment(run_bundle: Run, scans: Path, tmp_path: Path) -> Segment:
    """Segment the scans without a network."""

    def run(**settings: Any) -> None:
        settings = {"dataset_dir": str(scans), "output_dir": str(tmp_path / "masks"), "inferer": PROBE,
                    "load": "$lambda: None", **settings}  # fmt: skip
        run_bundle("inference.json", workflow_type="infer", **settings)

    return run


def table(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "masks" / "cases.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz"))


def times(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "masks").glob("*.nii.gz")}


def said(segment: Segment, **settings: Any) -> str:
    with pytest.raises(RuntimeError) as error:
        segment(**settings)
    return str(root_cause(error.value))


def test_shares_fill_one_folder_and_one_table(segment: Segment, tmp_path: Path, scans: Path) -> None:
    segment(share="2/2")
    assert names(tmp_path) == ["1_seg.nii.gz", "3_seg.nii.gz"]
    segment(share="1/2")
    rows = table(tmp_path)
    assert [row["path"] for row in rows] == [str(scans / f"{number}.nii.gz") for number in range(5)]
    assert {row["status"] for row in rows} == {"done"}
    for row in rows:
        mask = np.asarray(nib.load(tmp_path / "masks" / row["files"]).dataobj)
        assert int(row["left atrium_voxels"]) == int((mask == 1).sum()) > 0
        assert float(row["left atrium_ml"]) == pytest.approx(int((mask == 1).sum()) * 0.02)
        assert float(row["seconds"]) >= 0


def test_a_restarted_run_does_what_is_missing(segment: Segment, tmp_path: Path) -> None:
    """A mask that is gone, a file of it that is gone, a scan without a row; with overwrite all."""
    segment(save_probability=True)
    (tmp_path / "masks" / "1_seg.nii.gz").unlink()
    (tmp_path / "masks" / "2_probability.nii.gz").unlink()
    rows = (tmp_path / "masks" / "cases.csv").read_text().splitlines(keepends=True)
    (tmp_path / "masks" / "cases.csv").write_text("".join(rows[:-1]))
    before = times(tmp_path)
    segment(save_probability=True)
    after = times(tmp_path)
    assert {name[0] for name in after if after[name] != before.get(name)} == {"1", "2", "4"}
    segment(save_probability=True)
    assert times(tmp_path) == after
    segment(save_probability=True, overwrite=True, share="1/2")
    assert {name[0] for name, time in times(tmp_path).items() if time != after[name]} == {"0", "2", "4"}
    assert len(table(tmp_path)) == 5


def test_results_of_other_settings_are_refused_or_replaced(segment: Segment, tmp_path: Path) -> None:
    segment()
    before = times(tmp_path)
    message = said(segment, one_piece_classes=[1])
    assert f"{tmp_path / 'masks'} holds results of other settings: one_piece_classes was [] and is now [1]" in message
    assert "--overwrite True" in message
    assert "another --output_dir" in message
    assert times(tmp_path) == before
    segment(one_piece_classes=[1], overwrite=True, class_names={"1": "another"})
    assert "another_ml" in table(tmp_path)[0]
    segment(one_piece_classes=[1], class_names={"1": "another"})  # and is the new state


def test_other_weights_are_other_settings(segment: Segment, tmp_path: Path) -> None:
    weights = tmp_path / "a.pt"
    weights.write_bytes(b"a")
    segment(weights=str(weights))
    segment(weights=str(weights.rename(tmp_path / "b.pt")))  # the same ones elsewhere
    (tmp_path / "b.pt").write_bytes(b"b")
    assert "SHA-256 of the weights was" in said(segment, weights=str(tmp_path / "b.pt"))


def test_results_of_unknown_settings_are_refused(segment: Segment, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "3_seg.nii.gz").touch()
    assert "3_seg.nii.gz is of unknown settings" in said(segment)
    (tmp_path / "masks" / "settings.json").write_text("{")
    assert "settings.json is damaged" in said(segment)
    segment(overwrite=True)
    assert len(table(tmp_path)) == 5


def test_failed_scans_have_a_row_and_are_tried_again(segment: Segment, scans: Path, tmp_path: Path) -> None:
    (scans / "1.nii.gz").write_bytes(b"damaged")
    assert said(segment).startswith("1 cases failed, all others are written.")
    assert [row["status"] for row in table(tmp_path)] == ["done", "failed", "done", "done", "done"]
    assert table(tmp_path)[1]["error"]
    write_scan(scans / "1.nii.gz", 1)
    segment()
    assert {row["status"] for row in table(tmp_path)} == {"done"}
    assert table(tmp_path)[1]["error"] == ""


def test_a_share_without_scans_ends_well(segment: Segment, tmp_path: Path) -> None:
    segment(share="7/9")
    assert names(tmp_path) == []


def test_a_full_disk_ends_the_run_and_keeps_what_is_done(
    segment: Segment, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5, 20):
        write_scan(scans / f"{number}.nii.gz", number)
    save, calls = nib.save, []

    def full_disk(image: nib.Nifti1Image, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:
            path.write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path)

    monkeypatch.setattr(nib, "save", full_disk)
    message = said(segment, num_workers=0)
    assert "the disk of output_dir is full: make room and run again" in message
    assert len(calls) < 12  # the others were not tried
    written = names(tmp_path)
    assert len(written) == 2
    assert [row["files"] for row in table(tmp_path) if row["status"] == "done"] == written
    before = times(tmp_path)
    monkeypatch.setattr(nib, "save", save)
    segment()
    after = times(tmp_path)
    assert len(after) == 20
    assert {name: after[name] for name in before} == before


class Break:
    """Handler that ends a run after some scans, as Ctrl-C does."""

    def __init__(self, scans: int) -> None:
        self.scans = scans

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.scans), self)

    def __call__(self) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_has_rows_of_what_it_wrote(segment: Segment, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        segment(handlers=[{"_target_": "test_archive.Break", "scans": 3}])
    assert len(table(tmp_path)) == 3
    before = times(tmp_path)
    segment()
    after = times(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 5


class Counting(AboveMean):
    """Notes how many tensors are alive when a scan is segmented."""

    alive: list[int]

    def __init__(self) -> None:
        super().__init__()
        Counting.alive = []

    def __call__(self, inputs: Tensor, network: Any) -> Tensor:
        if len(Counting.alive) % 10 == 0:
            gc.collect()
        Counting.alive.append(sum(isinstance(thing, Tensor) for thing in gc.get_objects()))
        return super().__call__(inputs, network)


def test_memory_stays_flat_over_many_scans(segment: Segment, scans: Path) -> None:
    """As many tensors are alive at the last scans as at the first ones, but for what waits to be written."""
    for number in range(5, 51):
        write_scan(scans / f"{number}.nii.gz", number)
    segment(inferer={"_target_": "test_archive.Counting"}, num_workers=0)
    assert len(Counting.alive) == 51
    assert Counting.alive[50] - Counting.alive[10] < 10
