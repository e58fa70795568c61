"""Datalists and scan folders: sections, views of the training section, and errors that name the file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from simcvd_bundle.data.datalists import load_datalist

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


# links


@pytest.mark.parametrize("listed", ["folder", "alias"])
@pytest.mark.parametrize("given", ["folder", "alias"])
def test_a_link_to_the_folder_is_the_folder(folder: Path, listed: str, given: str) -> None:
    """Absolute paths may take another way there than dataset_dir; what is read lies below the folder itself."""
    alias = folder.parent / f"{folder.name}_{listed}_{given}"
    alias.symlink_to(folder)
    places = {"folder": folder, "alias": alias}
    edit(folder, training=[{"image": str(places[listed] / "images/a.nii.gz"), "label": "labels/a.nii.gz"}])
    [item] = load_datalist(str(places[given]), "training")
    assert item == {"image": str(folder / "images/a.nii.gz"), "label": str(folder / "labels/a.nii.gz")}


def test_a_link_inside_the_folder_may_lead_out_of_it(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("store")
    (outside / "x.nii.gz").touch()
    (folder / "linked").symlink_to(outside)
    edit(folder, test=[{"image": "linked/x.nii.gz"}])
    assert load_datalist(str(folder), "test") == [{"image": str(folder / "linked/x.nii.gz")}]
    edit(folder, test=[{"image": str(outside / "x.nii.gz")}])
    with pytest.raises(ValueError, match="lies outside dataset_dir"):
        load_datalist(str(folder), "test")


def test_one_file_by_two_names_of_its_folder_is_listed_twice(folder: Path) -> None:
    edit(folder, test=[{"image": "images/a.nii.gz"}, {"image": str(folder / "images" / "a.nii.gz")}])
    with pytest.raises(ValueError, match=r"the case images/a.nii.gz is listed twice"):
        load_datalist(str(folder), "test")


def test_a_file_behind_a_header_is_missed_like_any_other(folder: Path) -> None:
    (folder / "images" / "a.mhd").write_text("NDims = 3\nElementDataFile = a.raw\n")
    edit(folder, test=[{"image": "images/a.mhd"}])
    with pytest.raises(
        FileNotFoundError, match=r"a\.mhd has its voxels in .*a\.raw, which does not exist: put it there"
    ):
        load_datalist(str(folder), "test")
    (folder / "images" / "a.raw").touch()
    assert names(load_datalist(str(folder), "test")) == ["a.mhd"]
