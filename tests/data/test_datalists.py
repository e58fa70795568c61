"""Datalists and scan folders: sections, views of the training section, and errors that name the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.scans import LABEL_DATASTORE, find_images, find_unlabeled

TRAINING = ["a", "b", "c", "d"]  # b has no label in the file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of four training cases, three of them labelled, and one test case, its files empty."""

    def item(name: str, labelled: bool = True) -> dict[str, str]:
        files = {"image": f"images/{name}.nii.gz"} | ({"label": f"./labels/{name}.nii.gz"} if labelled else {})
        for file in files.values():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        return files

    content = {"name": "toy", "training": [item(n, n != "b") for n in TRAINING], "test": [item("t")], "validation": []}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def names(items: list[dict[str, Any]]) -> list[str]:
    return [Path(item["image"]).name.removesuffix(".nii.gz") for item in items]


def labelled(items: list[dict[str, Any]]) -> list[str]:
    return names([item for item in items if "label" in item])


def edit(folder: Path, **sections: Any) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | sections))


# sections and views


def test_section_has_absolute_paths(folder: Path) -> None:
    assert load_datalist(str(folder), "test") == [
        {"image": str(folder / "images" / "t.nii.gz"), "label": str(folder / "labels" / "t.nii.gz")}
    ]


def test_relative_dataset_dir(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_datalist(folder.name, "test") == load_datalist(str(folder), "test")


@pytest.mark.parametrize(
    ("num_labeled", "kept"), [(None, ["a", "c", "d"]), (3, ["a", "c", "d"]), (1, ["a"]), (2, ["a", "c"])]
)
def test_num_labeled_keeps_the_first_labels(folder: Path, num_labeled: int | None, kept: list[str]) -> None:
    """All images stay, in their order; the case without label in the file does not count."""
    items = load_datalist(str(folder), "training", num_labeled=num_labeled)
    assert names(items) == TRAINING
    assert labelled(items) == kept
    assert all("image" in item for item in items)


@pytest.mark.parametrize("kept", [1, 2])
def test_labeled_and_unlabeled_views(folder: Path, kept: int) -> None:
    """Together they are the cases whose label the file knows, all with their label."""
    known = ["a", "c", "d"]
    seen = load_datalist(str(folder), "labeled", num_labeled=kept)
    unseen = load_datalist(str(folder), "unlabeled", num_labeled=kept)
    assert labelled(seen) == names(seen) == known[:kept]
    assert labelled(unseen) == names(unseen) == known[kept:]


@pytest.mark.parametrize("num_labeled", [None, 3])
def test_no_case_is_left_for_the_unlabeled_view(folder: Path, num_labeled: int | None) -> None:
    assert labelled(load_datalist(str(folder), "labeled", num_labeled=num_labeled)) == ["a", "c", "d"]
    message = f"Section 'unlabeled' of {folder / 'dataset.json'} is empty, as every case with a label trains with it"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_datalist(str(folder), "unlabeled", num_labeled=num_labeled)
    assert load_datalist(str(folder), "unlabeled", num_labeled=num_labeled, optional=True) == []


def test_training_without_any_label(folder: Path) -> None:
    edit(folder, training=[{"image": "images/a.nii.gz"}])
    with pytest.raises(ValueError, match=r"No case in section 'training' of .*dataset\.json has a label: add"):
        load_datalist(str(folder), "training")


@pytest.mark.parametrize("section", ["training", "labeled", "unlabeled"])
@pytest.mark.parametrize("num_labeled", [0, 4, -1])
def test_num_labeled_out_of_range_raises(folder: Path, section: str, num_labeled: int) -> None:
    message = f"num_labeled is {num_labeled}, but section 'training' of {folder / 'dataset.json'} has 3 labelled cases"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_datalist(str(folder), section, num_labeled=num_labeled)


def test_num_labeled_does_not_touch_other_sections(folder: Path) -> None:
    assert labelled(load_datalist(str(folder), "test", num_labeled=1)) == ["t"]


def test_null_label_counts_as_none(folder: Path) -> None:
    edit(
        folder,
        training=[
            {"image": "images/a.nii.gz", "label": None},
            {"image": "images/c.nii.gz", "label": "labels/c.nii.gz"},
        ],
    )
    assert labelled(load_datalist(str(folder), "labeled")) == ["c"]
    with pytest.raises(ValueError, match="has 1 labelled cases"):
        load_datalist(str(folder), "training", num_labeled=2)


def test_msd_test_section_of_plain_strings(folder: Path) -> None:
    edit(folder, test=["./images/a.nii.gz", "./images/b.nii.gz"])
    items = load_datalist(str(folder), "test")
    assert names(items) == ["a", "b"]
    assert labelled(items) == []


def test_multichannel_item_is_a_list_of_files(folder: Path) -> None:
    edit(folder, test=[{"image": ["images/a.nii.gz", "images/b.nii.gz"]}])
    assert load_datalist(str(folder), "test")[0]["image"] == [str(folder / "images" / f"{n}.nii.gz") for n in "ab"]


def test_other_entries_of_an_item_are_no_files(folder: Path) -> None:
    """MSD-style lists may carry a fold or a case name."""
    edit(folder, test=[{"image": "images/a.nii.gz", "fold": 0, "case": "patient 7"}])
    item = load_datalist(str(folder), "test")[0]
    assert (item["fold"], item["case"]) == (0, "patient 7")


def test_datalist_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its paths stay relative to dataset_dir, whether it is named by an absolute path or by another name."""
    other = tmp_path_factory.mktemp("lists") / "fold.json"
    other.write_text((folder / "dataset.json").read_text())
    (folder / "fold.json").write_text((folder / "dataset.json").read_text())
    expected = load_datalist(str(folder), "training")
    (folder / "dataset.json").unlink()
    assert load_datalist(str(folder), "training", datalist=str(other)) == expected
    assert load_datalist(str(folder), "training", datalist="fold.json") == expected


@pytest.mark.parametrize("section", ["validation", "fold_3"])
def test_empty_or_missing_section(folder: Path, section: str) -> None:
    assert load_datalist(str(folder), section, optional=True) == []
    message = f"{folder / 'dataset.json'} has no cases in section '{section}'; sections with cases: training, test. Add"
    with pytest.raises(ValueError, match=re.escape(message)):
        load_datalist(str(folder), section)


# errors name the file


def test_missing_datalist(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"No datalist {folder / 'other.json'}: set dataset_dir")):
        load_datalist(str(folder), "training", datalist="other.json")


@pytest.mark.parametrize("text", ["{", "", '["training"]'])
def test_datalist_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(folder / "dataset.json"))):
        load_datalist(str(folder), "training")


@pytest.mark.parametrize("file", ["images/c.nii.gz", "labels/c.nii.gz"])
def test_missing_file_is_named(folder: Path, file: str) -> None:
    """Also a label that this training would not read."""
    (folder / file).unlink()
    message = f"{folder / file}, named in section 'training' of {folder / 'dataset.json'}, does not exist"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        load_datalist(str(folder), "training", num_labeled=1)
    assert len(load_datalist(str(folder), "test")) == 1


# scans to segment


def write_series(folder: Path, *names: str) -> None:
    """DICOM files, each of a series of its own."""
    folder.mkdir(exist_ok=True)
    for name in names:
        itk.imwrite(itk.image_from_array(np.zeros((4, 4), np.int16)), str(folder / "new.dcm"))
        (folder / "new.dcm").rename(folder / name)


def test_images_and_series_of_a_folder(tmp_path: Path) -> None:
    """Series are known by their content, images by their suffix; the folder that holds both is no series."""
    for file in ["b.nii.gz", "a.NRRD", "e.nii", "c.mha", "notes.txt", ".hidden.nii.gz", "empty/x.txt"]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    write_series(tmp_path / "d", "IM0001")
    write_series(tmp_path, "stray.dcm")
    expected = [{"image": str(tmp_path / name)} for name in ["a.NRRD", "b.nii.gz", "c.mha", "d", "e.nii"]]
    assert find_images(str(tmp_path)) == expected


def test_folder_that_is_a_series_itself(tmp_path: Path) -> None:
    write_series(tmp_path, "1.dcm")
    assert find_images(str(tmp_path)) == [{"image": str(tmp_path)}]


def test_several_series_in_a_folder_raise(tmp_path: Path) -> None:
    write_series(tmp_path / "scans", "1.dcm", "2.dcm")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'scans'} holds 2 DICOM series: put each into")):
        find_images(str(tmp_path))


def test_single_file(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").touch()
    (tmp_path / "b.nrrd").touch()
    assert find_images(str(tmp_path / "a.nrrd")) == [{"image": str(tmp_path / "a.nrrd")}]


def test_nothing_found_raises(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path} holds no scan: expected files ending in .nii,")):
        find_images(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'absent'} does not exist: set dataset_dir")):
        find_images(str(tmp_path / "absent"))


# the files of a scan of several channels


def channels(folder: Path, *files: str, in_channels: int = 2, volumes: int = 1) -> list[str]:
    """Scans that are found in a folder of files of ``volumes`` channels each, named ``FILE+FILE``."""
    for file in files:
        nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, volumes)), np.eye(4)), folder / f"{file}.nii.gz")
    scans = [item["image"] for item in find_images(str(folder), in_channels)]
    return [
        "+".join(Path(file).name.removesuffix(".nii.gz") for file in (scan if isinstance(scan, list) else [scan]))
        for scan in scans
    ]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["c_01_0000", "c_01_0001", "c_02_0000", "c_02_0001"], ["c_01_0000+c_01_0001", "c_02_0000+c_02_0001"]),
        (["a_t1", "a_flair", "b_flair", "b_t1"], ["a_flair+a_t1", "b_flair+b_t1"]),
        (["a_T1", "a_T2"], ["a_T1+a_T2"]),
        (["a_t1", "a_flair", "b_t1"], ["a_flair+a_t1", "b_t1"]),
        (["c_0000", "c_0001", "a_t1", "a_t2"], ["a_t1+a_t2", "c_0000+c_0001"]),
        (["_t1", "_t2"], ["_t1", "_t2"]),
    ],
)
def test_channels_are_known_by_nnunets_numbers_or_by_words(
    tmp_path: Path, files: list[str], expected: list[str]
) -> None:
    assert channels(tmp_path, *files) == expected


def test_order_of_channels_named_by_words_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        channels(tmp_path, "a_t1", "a_flair")
    assert "in this order: flair, t1" in caplog.text


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["pat_01", "pat_02"], "pat_01.nii.gz, pat_02.nii.gz"),
        (["pat_1", "pat_2"], "pat_1.nii.gz, pat_2.nii.gz"),
        (["s_0001", "s_0002"], "s_0001.nii.gz, s_0002.nii.gz"),
        (["site_p1", "site_p2"], "site_p1.nii.gz, site_p2.nii.gz"),
        (["a_t1", "a_t2", "site_03", "site_04"], "site_03.nii.gz, site_04.nii.gz"),
        (["lee_ann", "lee_joe", "smith_john", "smith_zoe"], "smith_john.nii.gz, smith_zoe.nii.gz"),
        (["a_t1", "a_flair", "b_T1", "b_flair"], "b_T1.nii.gz, b_flair.nii.gz"),  # another order of the channels
    ],
)
def test_patients_are_not_merged_for_their_names(tmp_path: Path, files: list[str], named: str) -> None:
    message = re.escape(f"{named} in {tmp_path} could be the channels of one scan or 2 scans: ")
    with pytest.raises(ValueError, match=message + r".* end their names with _0000, _0001, \.\.\. or with a"):
        channels(tmp_path, *files)


@pytest.mark.parametrize("ending", ["nii.gz", "mha", "nrrd"])
def test_files_that_hold_all_channels_are_scans_of_their_own(tmp_path: Path, ending: str) -> None:
    for name in ("pat_01", "pat_02", "c_0000", "c_0001", "a_t1", "a_t2"):
        array = np.zeros((2, 3, 4, 2), np.float32)
        itk.imwrite(itk.image_from_array(array, is_vector=True), str(tmp_path / f"{name}.{ending}"))
    assert len(find_images(str(tmp_path), in_channels=2)) == 6


def test_one_channel_needs_no_names(tmp_path: Path) -> None:
    assert channels(tmp_path, "pat_01", "pat_02", in_channels=1) == ["pat_01", "pat_02"]


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_damaged_files_are_grouped_by_name(tmp_path: Path, content: bytes) -> None:
    """The error comes from their reader, with the name of the case."""
    for name in ("a_t1.nii.gz", "a_t2.nii.gz"):
        (tmp_path / name).write_bytes(content)
    assert len(find_images(str(tmp_path), in_channels=2)) == 1


# the unlabelled images of a MONAI Label datastore


@pytest.fixture
def datastore(tmp_path: Path) -> Path:
    """Four images, labels of two of them, a DICOM series."""
    for file in ["a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nrrd", LABEL_DATASTORE, ".lock"]:
        (tmp_path / file).touch()
    for name in "ab":
        file = tmp_path / "labels" / "final" / f"{name}.nii.gz"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    write_series(tmp_path / "a", "1.dcm")
    return tmp_path


def labeled_item(datastore: Path, name: str) -> dict[str, str]:
    return {"image": str(datastore / f"{name}.nii.gz"), "label": str(datastore / "labels" / "final" / f"{name}.nii.gz")}


def test_images_beside_labelled_ones_are_unlabelled(datastore: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Labels and the series that a volume was made from are none; nothing twice."""
    with caplog.at_level("INFO"):
        items = find_unlabeled([labeled_item(datastore, "a"), labeled_item(datastore, "b")])
    assert items == [{"image": str(datastore / "c.nii.gz")}, {"image": str(datastore / "d.nrrd")}]
    assert f"Found 2 images without label in {datastore}" in caplog.text


def test_images_held_out_for_validation_are_not_trained_on(datastore: Path) -> None:
    items = find_unlabeled([labeled_item(datastore, "a")], [labeled_item(datastore, "b")])
    assert names([item for item in items if item["image"].endswith(".gz")]) == ["c"]
    assert len(find_unlabeled([labeled_item(datastore, "a")])) == 3


@pytest.mark.parametrize("item", [{}, {"image": ["a.nii.gz", "b.nii.gz"]}, {"image": 3}])
def test_items_without_a_single_file_have_no_folder(item: dict[str, Any]) -> None:
    assert find_unlabeled([item]) == []


def test_other_folders_are_not_searched(datastore: Path) -> None:
    """Whoever trains from a datalist gets the images that it names and no other."""
    (datastore / LABEL_DATASTORE).unlink()
    assert find_unlabeled([labeled_item(datastore, "a"), labeled_item(datastore, "b")]) == []
