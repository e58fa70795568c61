"""The phantom data set: deterministic, made once and all at once, with usable labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from simcvd_bundle.data import phantoms
from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.phantoms import phantom_dataset


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One case a section, in volumes just large enough for the largest ball."""
    monkeypatch.setattr(phantoms, "SHAPE", (32, 30, 29))
    monkeypatch.setattr(phantoms, "SIZES", {"training": 2, "validation": 1, "test": 1})
    monkeypatch.setattr(phantoms, "NUM_LABELED", 1)


def arrays(folder: str) -> dict[str, bytes]:
    files = sorted(Path(folder).glob("*/*.nii.gz"))
    return {f"{f.parent.name}/{f.name}": np.asarray(nib.load(f).dataobj).tobytes() for f in files}


def test_sections_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 training cases of which the first 4 are labelled, 4 for validation, 4 for testing."""
    monkeypatch.setattr(phantoms, "SHAPE", (29, 29, 29))
    folder = phantom_dataset(str(tmp_path / "set"))
    training = load_datalist(folder, "training")
    assert [("label" in item) for item in training] == [True] * 4 + [False] * 8
    for section in ("validation", "test"):
        assert ["label" in item for item in load_datalist(folder, section)] == [True] * 4
    volumes = arrays(folder)
    assert len(volumes) == 20 + 12
    assert len({data for name, data in volumes.items() if name.startswith("images")}) == 20  # no case twice
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["labels"] == {"0": "background", "1": "ball"}


def test_volumes_are_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voxels of 1 mm; the labels binary, with foreground, and visible in the image."""
    monkeypatch.setattr(phantoms, "SIZES", {"training": 1})
    item = load_datalist(phantom_dataset(str(tmp_path / "set")), "training")[0]
    image, label = nib.load(item["image"]), nib.load(item["label"])
    for volume in (image, label):
        assert volume.shape == phantoms.SHAPE
        np.testing.assert_array_equal(volume.affine, np.eye(4))
    intensity, mask = np.asarray(image.dataobj), np.asarray(label.dataobj)
    assert (intensity.dtype, mask.dtype) == (np.float32, np.uint8)
    assert set(np.unique(mask)) == {0, 1}
    assert 0.01 < mask.mean() < 0.5
    assert intensity[mask == 1].mean() > intensity[mask == 0].mean() + 0.2
    assert intensity[mask == 0].std() > 0.05  # noise


@pytest.mark.usefixtures("tiny")
def test_same_seed_same_volumes(tmp_path: Path) -> None:
    np.random.seed(3)  # noqa: NPY002 (the global state must not matter)
    first = arrays(phantom_dataset(str(tmp_path / "a")))
    assert len(first) == 4 + 3
    assert arrays(phantom_dataset(str(tmp_path / "b"))) == first
    other = arrays(phantom_dataset(str(tmp_path / "c"), seed=1))
    assert all(other[name] != first[name] for name in first if name.startswith("images"))


@pytest.mark.usefixtures("tiny")
def test_second_call_writes_nothing(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "set"
    assert phantom_dataset(str(target)) == str(target)
    before = {path: path.stat().st_mtime_ns for path in (target, *target.rglob("*"))}
    assert phantom_dataset(str(target), seed=9) == str(target)
    assert {path: path.stat().st_mtime_ns for path in (target, *target.rglob("*"))} == before
    assert list(target.parent.iterdir()) == [target]  # no scratch folder
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("tiny")
def test_empty_folder_is_filled(tmp_path: Path) -> None:
    assert (Path(phantom_dataset(str(tmp_path))) / "dataset.json").is_file()


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path} is not empty and has no dataset.json: move it away"):
        phantom_dataset(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(folder: Path, *_: Any) -> None:
        (folder / "images").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(phantoms, "_write", write_half)
    with pytest.raises(KeyboardInterrupt):
        phantom_dataset(str(tmp_path / "set"))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_nothing(folder: Path, *_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(phantoms, "_write", write_nothing)
    with pytest.raises(OSError, match="No space left on device"):
        phantom_dataset(str(tmp_path / "set"))


def test_faster_second_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "set"

    def write_while_another_finishes(folder: Path, *_: Any) -> None:
        (folder / "dataset.json").write_text("ours")
        target.mkdir()
        (target / "dataset.json").write_text("theirs")

    monkeypatch.setattr(phantoms, "_write", write_while_another_finishes)
    assert phantom_dataset(str(target)) == str(target)
    assert (target / "dataset.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_shape_and_number_of_training_cases(tmp_path: Path) -> None:
    folder = phantom_dataset(str(tmp_path / "set"), shape=(31, 33, 35), num_training=5)
    images = sorted(Path(folder, "images").glob("training_*"))
    assert len(images) == 5
    assert nib.load(images[0]).shape == (31, 33, 35)
