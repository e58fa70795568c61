"""Subjects: no split of a datalist parts the scans of one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simcvd_bundle.commands.init.finding import Scan
from simcvd_bundle.commands.init.inspecting import Intensities
from simcvd_bundle.commands.init.sections import split
from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.folds import write_folds
from simcvd_bundle.data.subjects import scans_by_subject


def case(name: str, subject: Any = None, label: bool = True) -> dict[str, Any]:
    item: dict[str, Any] = {"image": f"{name}.nii.gz"}
    return item | ({"label": f"{name}_label.nii.gz"} if label else {}) | ({"subject": subject} if subject else {})


def write(folder: Path, **sections: list[dict[str, Any]]) -> str:
    """A datalist whose files are there, empty."""
    for items in sections.values():
        for item in items:
            for key in item.keys() & {"image", "label"}:
                (folder / item[key]).touch()
    (folder / "dataset.json").write_text(json.dumps(sections))
    return str(folder)


def names(items: list[dict[str, Any]]) -> list[str]:
    return [Path(item["image"]).name.split(".")[0] for item in items]


PAIRED = [case(f"{who}{scan}", who) for who in "pqrs" for scan in "12"]


def test_a_subject_in_two_sections_is_an_error(tmp_path: Path) -> None:
    """Whichever section is read."""
    folder = write(tmp_path, training=PAIRED, validation=[case("x", "y"), case("z", "q")])
    for section in ("training", "validation", "images"):
        with pytest.raises(
            ValueError, match=r"'q' is in 'training' \(q1\.nii\.gz\) and in 'validation' \(z\.nii\.gz\)"
        ):
            load_datalist(folder, section)


def test_a_number_and_its_text_are_one_subject(tmp_path: Path) -> None:
    folder = write(tmp_path, training=[case("a", 1)], test=[case("b", "1")])
    with pytest.raises(ValueError, match="subject '1' is in 'training'"):
        load_datalist(folder, "test")


def test_all_cases_name_their_subject_or_none(tmp_path: Path) -> None:
    folder = write(tmp_path, training=[case("a", "p"), case("b")])
    with pytest.raises(ValueError, match=r"1 of 2 cases name their subject, but b\.nii\.gz does not"):
        load_datalist(folder, "training")


@pytest.mark.parametrize("subject", [["p"], 1.5, True])
def test_a_subject_is_a_text_or_an_integer(tmp_path: Path, subject: Any) -> None:
    folder = write(tmp_path, training=[case("a", subject)])
    with pytest.raises(ValueError, match=r"subject of a\.nii\.gz is .*give a text or an integer"):
        load_datalist(folder, "training")


def test_hidden_labels_do_not_part_a_subject(tmp_path: Path) -> None:
    folder = write(tmp_path, training=PAIRED)
    assert names(load_datalist(folder, "unlabeled", num_labeled=4)) == ["r1", "r2", "s1", "s2"]
    with pytest.raises(ValueError, match=r"num_labeled 3 keeps .* of subject 'q' and hides .*: choose 2 or 4"):
        load_datalist(folder, "training", num_labeled=3)


def test_folds_hold_out_subjects_with_their_unlabeled_scans(tmp_path: Path) -> None:
    extra = [case("p3", "p", label=False), case("t1", "t", label=False)]
    folder = write(tmp_path, training=PAIRED + extra)
    contents = [json.loads(file.read_text()) for file in write_folds(folder, 2, tmp_path / "folds")]
    assert [names(content["validation"]) for content in contents] == [
        ["p1", "p2", "r1", "r2"],
        ["q1", "q2", "s1", "s2"],
    ]
    assert [names(content["training"]) for content in contents] == [
        ["q1", "q2", "s1", "s2", "t1"], ["p1", "p2", "r1", "r2", "p3", "t1"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="folds is 5, but 4 subjects are labelled"):
        write_folds(folder, 5, tmp_path / "more")


def test_images_are_all_of_training_without_labels(tmp_path: Path) -> None:
    """None of them needs a label."""
    folder = write(tmp_path, training=[case("a", "p"), case("b", "q", label=False)], test=[case("c", "r")])
    items = load_datalist(folder, "images")
    assert names(items) == ["a", "b"]
    assert [sorted(item) for item in items] == [["image", "subject"]] * 2
    assert names(load_datalist(write(tmp_path, training=[case("a", label=False)]), "images")) == ["a"]


def test_scans_without_a_subject_are_subjects_of_their_own() -> None:
    assert list(scans_by_subject([case("a"), case("b")]).values()) == [[0], [1]]
    assert scans_by_subject([case("a", 7), case("b", "q"), case("c", "7")]) == {"7": [0, 2], "q": [1]}


def test_init_writes_the_subjects_that_its_pattern_finds(tmp_path: Path) -> None:
    scans = [Scan((tmp_path / f"pat{n}_{s}.nii",), tmp_path / f"pat{n}_{s}_label.nii") for n in range(3) for s in "ab"]
    seen = [Intensities(np.zeros(1), values=Counter({1: 1}))] * len(scans)
    with_pattern, _ = split(tmp_path, scans, seen, r"pat(\d)", None, 1, 0, 0)
    assert {item["image"][3]: item["subject"] for item in with_pattern["training"]}.items() <= {
        str(n): str(n) for n in range(3)
    }.items()
    assert len(with_pattern["training"]) == 4
    without, _ = split(tmp_path, scans, seen, None, None, 1, 0, 0)
    assert not any("subject" in item for items in without.values() for item in items)
