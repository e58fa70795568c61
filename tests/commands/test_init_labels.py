"""Labels from the folder to the mask: values beyond float32, names that files know."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import Run

from simcvd_bundle.commands.init import init
from simcvd_bundle.commands.init.naming import choose_names, names_of_index
from simcvd_bundle.data import class_names as names
from simcvd_bundle.utils.errors import root_cause

IDS = (182305689, 182305693, 614454277)
A, B, INDEX = Path("a.seg.nrrd"), Path("b.seg.nrrd"), Path("dataset.json")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({A: {}, INDEX: {}}, ["class 1", "class 2"]),
        ({A: {1: "liver", 2: "tumour"}, B: {1: "Liver", 2: "tumour"}}, ["liver", "tumour"]),
        ({A: {1: "liver"}, B: {1: "Segment_1", 2: "tumour"}}, ["liver", "tumour"]),
        ({A: {2: "tumour"}, INDEX: {0: "background", 1: "liver", 2: "tumour", 3: "spleen"}}, ["liver", "tumour"]),
        ({A: {1: "Segment_1", 2: "Segment_2"}, B: {1: "Segment_2", 2: "Segment_1"}}, ["class 1", "class 2"]),
        ({A: {2: "tumour"}}, ["class 1", "tumour"]),
    ],
)
def test_names_in_files_become_names_of_classes(found: Any, expected: list[str]) -> None:
    chosen, notes = choose_names([1, 2], found, None)
    assert chosen == expected
    assert bool(notes) == (chosen != ["class 1", "class 2"])
    assert choose_names([1, 2], found, ["x", "y"])[0] == ["x", "y"]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({A: {1: "liver", 2: "tumour"}, B: {1: "tumour", 2: "liver"}},
         "'liver' is 1 in a.seg.nrrd, 2 in b.seg.nrrd; 'tumour' is 2 in a.seg.nrrd, 1 in b.seg.nrrd"),
        ({A: {1: "liver"}, B: {2: "liver"}}, "'liver' is 1 in a.seg.nrrd, 2 in b.seg.nrrd"),
        ({A: {1: "liver"}, B: {1: "spleen"}}, "1 is 'liver' in a.seg.nrrd, 'spleen' in b.seg.nrrd"),
        ({A: {1: "liver"}, INDEX: {1: "spleen"}}, "1 is 'liver' in a.seg.nrrd, 'spleen' in dataset.json"),
        ({INDEX: {1: "lesion", 2: "lesion"}}, "'lesion' is 1 in dataset.json, 2 in dataset.json"),
    ],
)  # fmt: skip
def test_files_that_disagree_on_names_are_an_error(found: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message}\. Give a class the same value in all files .*--class_names"):
        choose_names([1, 2], found, None)
    chosen, notes = choose_names([1, 2], found, ["liver", "tumour"])
    assert chosen == ["liver", "tumour"]
    assert any(message.split(";")[0] in note for note in notes)


def test_given_names_win_and_a_contradiction_is_said() -> None:
    chosen, notes = choose_names([1, 2], {A: {1: "tumour", 2: "liver"}}, ["Liver", "tumour"])
    assert chosen == ["Liver", "tumour"]
    assert notes == [
        "--class_names calls 1 'Liver', a.seg.nrrd 'tumour'",
        "--class_names calls 2 'tumour', a.seg.nrrd 'liver'",
    ]


@pytest.mark.parametrize("content", ["{", "[]", '{"labels": 3}', "\xff"])
def test_an_index_that_is_none_gives_no_names(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset.json").write_bytes(content.encode("latin-1"))
    assert names_of_index(tmp_path / "dataset.json") == {}
    assert names_of_index(tmp_path / "absent.json") == {}


def segmentation(path: Path, label: np.ndarray, **values: int) -> None:
    """A ``.seg.nrrd`` of 3D Slicer with a name for each value."""
    header = [
        "NRRD0004", "type: uint8", "dimension: 3", "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, label.shape))}", "space directions: (1,0,0) (0,1,0) (0,0,2)",
        "kinds: domain domain domain", "endian: little", "encoding: gzip", "space origin: (0,0,0)",
    ]  # fmt: skip
    for number, (name, value) in enumerate(values.items()):
        header += [f"Segment{number}_LabelValue:={value}", f"Segment{number}_Name:={name}"]
    path.write_bytes("\n".join(header).encode() + b"\n\n" + gzip.compress(label.astype(np.uint8).tobytes("F")))


def slicer_folder(root: Path, swapped: bool) -> None:
    random = np.random.default_rng(0)
    for number in range(3):
        liver, tumour = np.zeros((2, 24, 24, 20), bool)
        liver[3 + number : 15 + number, 3:14, 4:16] = tumour[17:21, 15:20, 6:12] = True
        image = random.normal(0, 20, liver.shape) + 100 * liver + 200 * tumour
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.diag([-1, -1, 2, 1.0])), root / f"s{number}.nii.gz")
        values = {"liver": 1, "tumour": 2} if number != 1 or not swapped else {"liver": 2, "tumour": 1}
        segmentation(root / f"s{number}.seg.nrrd", liver * values["liver"] + tumour * values["tumour"], **values)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "SAID", set())


def settings_of(overlay: Path) -> dict[str, Any]:
    wanted = ("class_names", "label_values")
    return {name: value for name, value in json.loads(overlay.read_text()).items() if name in wanted}


def test_segment_names_from_init_to_training(
    tmp_path: Path, run_bundle: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    slicer_folder(tmp_path, swapped=False)
    init(str(tmp_path))
    assert "names of classes are those in s0.seg.nrrd" in capsys.readouterr().out
    settings = settings_of(tmp_path / "data_mine.json")
    assert settings == {"class_names": {"1": "liver", "2": "tumour"}}
    with caplog.at_level(logging.WARNING, "simcvd_bundle"):
        run_bundle("train.json", dataset_dir=tmp_path, **settings)
    assert not [record for record in caplog.records if "calls the value" in record.getMessage()]
    other = {"class_names": {"1": "Leber", "2": "tumour"}}
    with caplog.at_level(logging.WARNING, "simcvd_bundle"):
        run_bundle("train.json", dataset_dir=tmp_path, ckpt_dir=str(tmp_path / "m"), **other)
    said = [record.getMessage() for record in caplog.records if "calls the value" in record.getMessage()]
    assert len(said) == 1  # not once a file
    assert "calls the value 1 'liver', class_names call it 'Leber'" in said[0]


def test_segments_of_other_orders_are_refused_by_init_and_training(tmp_path: Path, run_bundle: Run) -> None:
    slicer_folder(tmp_path, swapped=True)
    with pytest.raises(ValueError, match=r"'liver' is 1 in .*s0.seg.nrrd, 2 in .*s1.seg.nrrd"):
        init(str(tmp_path))
    assert not (tmp_path / "dataset.json").exists()
    init(str(tmp_path), class_names=["liver", "tumour"])
    settings = settings_of(tmp_path / "data_mine.json")
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", dataset_dir=tmp_path, **settings)
    cause = root_cause(error.value)
    assert "s1.nii.gz cannot be used: The label" in str(cause)
    assert "s1.seg.nrrd calls the value 2 'liver', but" in str(cause)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_classes_named_in_another_order_than_the_datalist_are_refused(
    tmp_path: Path, dataset_dir: Path, trained_run: Path, run_bundle: Run, kind: str
) -> None:
    content = json.loads((dataset_dir / "dataset.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({"labels": {"1": "tumour", "2": "liver"}, **content}))
    files = ["train.json", *(["evaluate.json"] if kind == "evaluate" else [])]
    weights = {"weights": str(trained_run / "models/model.pt")} if kind == "evaluate" else {}
    with pytest.raises(RuntimeError) as error:
        run_bundle(*files, datalist=str(tmp_path / "other.json"), class_names={"1": "liver"}, **weights)
    cause = str(root_cause(error.value))
    assert cause.startswith(f"The datalist {tmp_path / 'other.json'} calls the value 2 'liver', but by class_names")


@pytest.mark.parametrize(
    ("ids", "dtype"), [(IDS, "int32"), ((2**40 + 1, 2**40 + 3, -5), "int64"), ((3, 200, 257), "int16")]
)
def test_values_beyond_float32_from_init_to_masks(tmp_path: Path, run_bundle: Run, ids: Any, dtype: str) -> None:
    """The network passes its channels on as logits, so that the masks are known."""
    root = tmp_path / "data"
    expected = np.zeros((24, 24, 24), np.int64)
    for number, value in enumerate(ids):
        expected[2:14, 3:15, 2 + 7 * number : 7 + 7 * number] = value
    image = np.stack([expected == value for value in (0, *sorted(ids))], -1).astype(np.float32)
    for kind, array in (("images", image), ("labels", expected)):
        (root / kind).mkdir(parents=True)
        for number in range(2):
            nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), root / kind / f"s{number}.nii.gz")
    init(str(root), in_channels=4, test=1)
    settings = settings_of(root / "data_mine.json")
    assert settings["label_values"] == {str(value): index for index, value in enumerate(sorted(ids), 1)}
    assert settings["class_names"] == {str(i): f"class {value}" for i, value in enumerate(sorted(ids), 1)}
    torch.save({}, tmp_path / "model.pt")
    known: dict[str, Any] = {
        **settings, "in_channels": 4, "weights": str(tmp_path / "model.pt"), "network": "$@network_def",
        "normalize": {"_target_": "Identityd", "keys": "image"}, "network_def": {"_target_": "torch.nn.Identity"},
    }  # fmt: skip
    masks = [tmp_path / "masks" / f"s{number}_seg.nii.gz" for number in range(2)]
    run_bundle("inference.json", workflow_type="infer", dataset_dir=root / "images", output_dir=str(tmp_path / "masks"),
               **known)  # fmt: skip
    run_bundle("train.json", "evaluate.json", dataset_dir=root, output_dir=str(tmp_path / "eval"), projection_head=None,
               teacher=None, save_predictions=True, **known)  # fmt: skip
    for file in (*masks, *(tmp_path / "eval").glob("*_seg.nii.gz")):
        mask: Any = nib.load(file)
        assert mask.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert [row["dice"]["mean"] for row in summary["classes"].values()] == [1, 1, 1]
