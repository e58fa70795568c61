"""Scans by pattern and by list."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from simcvd_bundle.data.scans import find_images


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two patients of a file each, one with its mask beside it, and a third one further down."""
    for name in ("p1/ct_1", "p1/ct_1_seg", "p2/ct_2", "old/p3/ct_3"):
        file = tmp_path / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def found(archive: Path, source: str, **settings: Any) -> list[str]:
    images = [item["image"] for item in find_images(str(archive / source), **settings)]
    return [Path(image).relative_to(archive).as_posix() for image in images]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/ct_*.nii.gz", ["p1/ct_1.nii.gz", "p2/ct_2.nii.gz"]),  # a mask stays one
        ("p?/*.nii.gz", ["p1/ct_1.nii.gz", "p2/ct_2.nii.gz"]),
        ("**/ct_[23].nii.gz", ["old/p3/ct_3.nii.gz", "p2/ct_2.nii.gz"]),
    ],
)
def test_a_pattern_takes_the_scans_that_match(archive: Path, pattern: str, expected: list[str]) -> None:
    assert found(archive, pattern) == expected


def test_a_pattern_without_matches_is_named(archive: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"Nothing matches {archive}/*/mr.nii.gz: set dataset_dir")):
        found(archive, "*/mr.nii.gz")
    (archive / "p1" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"notes\.txt holds no scan"):
        found(archive, "p?/*notes.txt")


def test_lists_keep_their_order_and_are_relative_to_their_folder(archive: Path) -> None:
    (archive / "a.csv").write_text("id,image\n7,p2/ct_2.nii.gz\n8,p1/ct_1_seg.nii.gz\n")
    (archive / "cases.csv").write_text(f"path,status\n{archive}/p2/ct_2.nii.gz,done\n")
    (archive / "a.json").write_text(json.dumps(["p2/ct_2.nii.gz", {"image": "old/p3/ct_3.nii.gz"}]))
    assert found(archive, "a.csv") == ["p2/ct_2.nii.gz", "p1/ct_1_seg.nii.gz"]
    assert found(archive, "cases.csv") == ["p2/ct_2.nii.gz"]
    assert found(archive, "a.json") == ["p2/ct_2.nii.gz", "old/p3/ct_3.nii.gz"]


def test_a_json_list_names_the_channels(archive: Path) -> None:
    (archive / "a.json").write_text(json.dumps([["p1/ct_1.nii.gz", "p2/ct_2.nii.gz"]]))
    items = find_images(str(archive / "a.json"), in_channels=2)
    assert items == [{"image": [f"{archive}/p1/ct_1.nii.gz", f"{archive}/p2/ct_2.nii.gz"]}]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "image\np1/ct_1.nii.gz\np1/none.nii.gz\n", "a.csv names 1 files that do not exist: .*none.nii.gz"),
        ("a.csv", "image\np1/ct_1.nii.gz\np1/../p1/ct_1.nii.gz\n", "a.csv names 1 scans more than once: .*ct_1.nii.gz"),
        ("a.csv", "scan\np1/ct_1.nii.gz\n", "a.csv has no column image or path"),
        ("a.csv", "image,id\n,7\n", "Line 2 of .*a.csv has nothing in its column image"),
        ("a.csv", "image\n", "a.csv names no scan"),
        ("a.csv", "", "a.csv has no column image or path"),
        ("a.json", "{", "a.json cannot be read as a list of scans"),
        ("a.json", '{"training": []}', "a.json is no list of scans"),
        ("a.json", "[7]", "Entry 1 of .*a.json is no path"),
        ("a.json", '[{"label": "x"}]', "Entry 1 of .*a.json is no path"),
        ("a.json", "[[]]", "Entry 1 of .*a.json is no path"),
    ],
)
def test_bad_lists_are_named(archive: Path, file: str, content: str, message: str) -> None:
    (archive / file).write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        found(archive, file)


def test_two_scans_that_would_write_one_result_are_named(archive: Path) -> None:
    (archive / "p2" / "ct_1.nrrd").touch()
    message = r"p1/ct_1.nii.gz, .*p2/ct_1.nrrd in .* would give results of one name: rename"
    with pytest.raises(ValueError, match=message):
        found(archive, "p?/*")
    (archive / "a.json").write_text(json.dumps(["p1/ct_1.nii.gz", "p2/ct_1.nrrd"]))
    with pytest.raises(ValueError, match=message):
        found(archive, "a.json")
