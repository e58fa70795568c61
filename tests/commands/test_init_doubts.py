"""Data that can be read but look wrong: a clear word, or a correct training."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import run_workflow

from simcvd_bundle.commands.init import init
from simcvd_bundle.data.datalists import load_datalist

SHAPE = (24, 20, 16)


def save(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), path)


def scan(
    root: Path, name: str, label: np.ndarray | None, scale: float = 1.0, shift: float = 0.0, **kwargs: Any
) -> None:
    random = np.random.default_rng(sum(map(ord, name)))
    image = random.normal(size=SHAPE if label is None else label.shape)
    if label is not None:
        image += 3 * (label > 0)
        save(root / "labels" / f"{name}.nii.gz", label.astype(np.uint8), **kwargs)
    save(root / "images" / f"{name}.nii.gz", (shift + scale * image).astype(np.float32), **kwargs)


def box(*values: int, z: slice = slice(4, 9), x: int = 3) -> np.ndarray:
    label = np.zeros(SHAPE)
    for number, value in enumerate(values):
        label[x + 6 * number : x + 6 * number + 5, 5:12, z] = value
    return label


def said(root: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    init(str(root), overwrite=True, **options)
    return capsys.readouterr().out


def train(root: Path, folder: Path, **settings: Any) -> None:
    """Two tiny iterations with the overlay that init wrote."""
    tiny = {"patch_size": None, "window_stride": None, "num_labeled": None}
    overlay = json.loads((root / "data_mine.json").read_text())
    chosen = {**{name: overlay.get(name) for name in tiny if overlay.get(name)}, **settings}
    chosen.setdefault("window_stride", chosen["patch_size"])
    run_workflow("train.json", str(root / "data_mine.json"), dataset_dir=root, folder=folder, **{
        "num_labeled": None, **chosen})  # fmt: skip
    assert (folder / "run" / "model.pt").is_file()


# a subject watches


def test_one_of_five_labelled_subjects_watches_and_none_of_four(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        for frame in "ab":
            scan(tmp_path, f"p{number}{frame}", box(1))
    scan(tmp_path, "p5a", None)
    text = said(tmp_path, capsys, subject=r"p\d")
    validation = load_datalist(str(tmp_path), "validation", require_labels=True)
    who = {re.findall(r"p\d", Path(item["image"]).name)[0] for item in validation}
    assert (len(validation), len(who)) == (2, 1)
    trained = [Path(item["image"]).name for item in load_datalist(str(tmp_path), "training")]
    assert not any(name.startswith(min(who)) for name in trained)
    assert re.search(r"validation: p\d, drawn of 5 labelled subjects, watches the training", text)
    assert said(tmp_path, capsys, subject=r"p\d", validation=0).count("watches the training") == 0
    assert "validation" not in {s for s, items in json.loads((tmp_path / "dataset.json").read_text()).items() if items}
    text = said(tmp_path, capsys, subject=r"p\d", test=1)
    assert "no validation: 4 labelled subjects all train, as fewer than 5" in text
    said(tmp_path, capsys, subject=r"p\d", num_labeled=10)
    assert json.loads((tmp_path / "dataset.json").read_text())["validation"] == []


def test_the_only_subject_with_a_class_is_not_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        scan(tmp_path, f"p{number}", box(1, 2) if number == 2 else box(1))
    for seed in range(6):
        said(tmp_path, capsys, seed=seed)
        (item,) = load_datalist(str(tmp_path), "validation")
        assert "p2" not in item["image"]
    for number in range(5):
        scan(tmp_path, f"p{number}", box(number + 1))
    assert "no validation: every labelled subject is the only one with some class" in said(tmp_path, capsys)


# bad input


def test_a_class_in_no_label_that_trains_is_an_error(tmp_path: Path) -> None:
    for number in range(3):
        scan(tmp_path, f"p{number}", box(1, 7) if number == 2 else box(1))
    with pytest.raises(ValueError, match=r"Label values 7 have no voxel in the labels that train, .*"):
        init(str(tmp_path), num_labeled=2)
    assert not (tmp_path / "dataset.json").exists()


def test_more_classes_than_values_are_said_and_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scan(tmp_path / "data", "a", box(1))
    scan(tmp_path / "data", "b", None)
    with pytest.raises(ValueError, match=r"labels hold the values \[1\]: a name for each, all different\."):
        init(str(tmp_path / "data"), class_names=["liver", "tumour"])
    said(tmp_path / "data", capsys)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "data", tmp_path, class_names={"1": "liver", "2": "tumour", "3": "cyst"})
    assert "No labelled training case has a voxel of class 2, 3 of class_names" in caplog.text


def test_one_labelled_case_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scan(tmp_path / "data", "a", box(1))
    scan(tmp_path / "data", "b", None)
    text = said(tmp_path / "data", capsys)
    assert re.search(r"only .*labels/a\.nii\.gz is a label: the network sees one example", text)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "data", tmp_path)
    assert "No labelled training case" not in caplog.text


@pytest.mark.parametrize("shape", ["a slice of many", "a single slice"])
def test_labels_on_a_single_slice_train(tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: str) -> None:
    label = box(1, z=slice(4, 5))
    scan(tmp_path / "data", "a", label if shape == "a slice of many" else label[:, :, 4:5])
    scan(tmp_path / "data", "b", box(1) if shape == "a slice of many" else label[:, :, 4:5])
    text = said(tmp_path / "data", capsys)
    expected = r"1 of 2 labels are on a single slice, .*labels/a\.nii\.gz: the other slices count as background"
    assert bool(re.search(expected, text)) == (shape == "a slice of many")
    assert ("on a single slice" in text) == (shape == "a slice of many")
    train(tmp_path / "data", tmp_path)


def test_foreground_at_the_border_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan(tmp_path / "data", "a", box(1, x=0))
    scan(tmp_path / "data", "b", box(1, z=slice(4, 16)))
    scan(tmp_path / "data", "c", box(1))
    text = said(tmp_path / "data", capsys)
    assert re.search(r"foreground touches the border of 2 of 3 labelled scans, .*a\.nii\.gz, .*b\.nii\.gz: it is", text)
    train(tmp_path / "data", tmp_path)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({}, None),
        ({"scale": 1.5}, None),
        ({"scale": 10.0}, "another intensity scale than the labelled ones: -2"),
        ({"shift": 1024.0}, "another intensity scale than the labelled ones: 102"),
        ({"spacing": (2.0, 2.0, 8.0)}, "another spacing than the labelled ones: 2 x 2 x 8 mm, not 1 x 1 x 2 mm"),
    ],
)
def test_unlabelled_scans_unlike_the_labelled_ones_are_said_with_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any], words: str | None
) -> None:
    for name in "ab":
        scan(tmp_path, name, box(1))
    for name in "cde":
        scan(tmp_path, name, None, **other)
    text = said(tmp_path, capsys)
    if words is None:
        assert "all 3 unlabelled scans" not in text
        return
    assert f"all 3 unlabelled scans have {words}" in text
    scan(tmp_path, "f", None)  # one that is like the labelled ones: they are of one kind
    assert "unlabelled scans have another" not in said(tmp_path, capsys)
