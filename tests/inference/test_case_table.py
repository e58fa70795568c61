"""The table of an archive: rows that survive kills, and several processes that write to one file."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from simcvd_bundle.inference.case_table import DONE, FAILED, CaseTable

SETTINGS = "0123abcd"


@pytest.fixture
def table(tmp_path: Path) -> CaseTable:
    table = CaseTable(str(tmp_path), {"1": "left, atrium"})
    table.start(SETTINGS, keep_others=True)
    return table


def test_rows_have_the_columns_and_the_last_one_of_a_scan_counts(table: CaseTable) -> None:
    table.add("/in/a.nii", FAILED, {"error": 'one,\ntwo "three"'})
    table.add("/in/b.nii", DONE, {"seconds": "1.25", "left, atrium_voxels": "7", "files": "b_seg.nii.gz"})
    assert table.rows()["/in/a.nii"]["error"] == 'one, two "three"'
    table.add("/in/a.nii", DONE, {"files": "a_seg.nii.gz", "quality": "0.9"})
    table.tidy()
    with table.file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["path"], row["status"]) for row in rows] == [("/in/a.nii", DONE), ("/in/b.nii", DONE)]
    assert list(rows[0]) == [
        "path", "status", "error", "seconds", "left, atrium_voxels", "left, atrium_ml", "quality", "predicted_dice",
        "files", "settings",
    ]  # fmt: skip
    assert rows[1]["left, atrium_voxels"] == "7"


@pytest.mark.parametrize("cut", [1, 5, 9, 20, 40])
def test_a_part_of_a_row_counts_for_nothing(table: CaseTable, cut: int) -> None:
    """Wherever a kill cut it, also in quotes; the next row replaces it."""
    table.add("/in/a.nii", DONE, {"files": "a_seg.nii.gz"})
    whole = table.file.read_bytes()
    table.add("/in/b, the second.nii", DONE, {"files": "b_seg.nii.gz"})
    table.file.write_bytes(table.file.read_bytes()[:-cut])
    assert list(table.rows()) == ["/in/a.nii"]
    table.add("/in/c.nii", DONE, {"files": "c_seg.nii.gz"})
    assert list(table.rows()) == ["/in/a.nii", "/in/c.nii"]
    assert table.file.read_bytes().startswith(whole)


def test_a_torn_first_line_is_written_again(table: CaseTable) -> None:
    table.file.write_bytes(b"path,sta")
    table.add("/in/a.nii", DONE, {"files": "a_seg.nii.gz"})
    assert list(table.rows()) == ["/in/a.nii"]


def test_complete_are_scans_of_these_settings_whose_files_are_there(table: CaseTable, tmp_path: Path) -> None:
    for name in ("a_seg", "a_sdm", "b_seg", "c_seg", "d_seg"):
        (tmp_path / f"{name}.nii.gz").touch()
    table.add("/in/a.nii", DONE, {"files": "a_seg.nii.gz|a_sdm.nii.gz"})
    table.add("/in/b.nii", DONE, {"files": "b_seg.nii.gz|b_sdm.nii.gz"})
    table.add("/in/c.nii", FAILED, {})
    table.start("otherone", keep_others=True)
    table.add("/in/d.nii", DONE, {"files": "d_seg.nii.gz"})
    assert table.complete() == {"/in/d.nii"}
    table.start(SETTINGS, keep_others=True)
    assert table.complete() == {"/in/a.nii"}
    table.start(SETTINGS, keep_others=False)
    assert "/in/d.nii" not in table.rows()


def test_processes_share_the_table(table: CaseTable) -> None:
    """Four at once, each of which also tidies it up: no row is lost or torn."""
    children = []
    for process in range(4):
        pid = os.fork()
        if not pid:
            try:
                for number in range(20):
                    table.add(f"/in/{process}_{number}.nii", DONE, {"files": "x" * 100})
                    if number % 7 == process:
                        table.tidy()
            finally:
                os._exit(0)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    assert set(table.rows()) == {f"/in/{process}_{number}.nii" for process in range(4) for number in range(20)}


def test_another_table_is_refused(table: CaseTable) -> None:
    table.file.write_text("name,age\na,7\n")
    with pytest.raises(ValueError, match=r"cases.csv is not a table of inference: move it"):
        table.rows()


def test_a_table_that_cannot_be_written_says_so(table: CaseTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cases.csv cannot be written \(No space left on device\)") as error:
        table.add("/in/a.nii", DONE, {})
    assert error.value.errno == errno.ENOSPC
