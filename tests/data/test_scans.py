"""Scans of a folder: files, DICOM series, channels, and what lies beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest

from simcvd_bundle.data.masks import PREDICTED
from simcvd_bundle.data.names import stem
from simcvd_bundle.data.scans import LABEL_DATASTORE, find_images, find_unlabeled


def names(items: list[dict[str, Any]]) -> list[str]:
    return [stem(Path(item["image"])) for item in items]


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


def test_several_series_in_a_folder_are_for_the_reader_to_judge(tmp_path: Path) -> None:
    """It names the case, and the others are segmented."""
    write_series(tmp_path / "scans", "1.dcm", "2.dcm")
    assert find_images(str(tmp_path)) == [{"image": str(tmp_path / "scans")}]


def test_series_are_known_by_content(tmp_path: Path) -> None:
    """Files and folders may be called by their UID; an index of DICOM files is none."""
    write_series(tmp_path / "1.3.46.670589.11.20.1", "1.3.46.1", "MR.1.3.46.2")
    write_series(tmp_path / "scan.v2", "IM1")
    write_series(tmp_path, "DICOMDIR")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.3.46.1").write_bytes(bytes(200))
    (tmp_path / ".trash").mkdir()
    write_series(tmp_path / ".trash", "a.dcm")
    assert [Path(item["image"]).name for item in find_images(str(tmp_path))] == ["1.3.46.670589.11.20.1", "scan.v2"]


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


# masks beside scans


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a", "a_seg", "a_probability", "a_sdm"], ["a"]),
        (["a_0000", "a_seg", "a_0000_seg"], ["a_0000"]),
        (["volume-1", "segmentation-1", "volume-2"], ["volume-1", "volume-2"]),
        (["case1", "mask_case1", "case1_liver_mask"], ["case1"]),
        (["b_t1", "b_flair", "b_seg"], ["b_flair", "b_t1"]),
        (["Patient_01", "GT"], ["Patient_01"]),
        (["imaging", "segmentation"], ["imaging"]),
        (["1.img", "1.label"], ["1.img"]),
        (["a_scan", "a", "b_image"], ["a", "a_scan", "b_image"]),  # no words for labels
        (["PanSeg_1", "PanSeg_2"], ["PanSeg_1", "PanSeg_2"]),
        (["a", "b_seg"], ["a", "b_seg"]),
        (["case1", "case2_seg"], ["case1", "case2_seg"]),
        (["x_seg"], ["x_seg"]),
    ],
)
def test_masks_beside_scans_are_no_scans(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    """And nothing is left out for its name alone. The same for the pool of a datastore."""
    for file in files:
        (tmp_path / f"{file}.nii.gz").touch()
    (tmp_path / "labels").mkdir()
    assert names(find_images(str(tmp_path))) == expected
    (tmp_path / LABEL_DATASTORE).touch()
    (tmp_path / "labelled.mha").touch()
    assert names(find_unlabeled([{"image": str(tmp_path / "labelled.mha")}])) == expected


def test_what_is_left_out_or_odd_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in ("a", "a_seg", "a_sdm", "x_seg"):
        (tmp_path / f"{file}.nii.gz").touch()
    with caplog.at_level("INFO"):
        find_images(str(tmp_path))
    assert caplog.messages == [
        f"Passed over 2 masks beside scans in {tmp_path}: a_sdm.nii.gz and 1 more",
        "Called like masks, but without a scan of their name, so taken as scans: x_seg.nii.gz",
    ]


def test_a_result_is_known_by_its_mark_wherever_it_lies(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))
    image.header["descrip"] = PREDICTED
    nib.save(image, tmp_path / "x_seg.nii.gz")
    with pytest.raises(FileNotFoundError, match="holds no scan"):
        find_images(str(tmp_path))


def test_results_beside_a_series_are_no_scans(tmp_path: Path) -> None:
    """Also in the folder of the series itself."""
    write_series(tmp_path / "1.3.46", "1.dcm")
    for file in (tmp_path / "1.3.46_seg.nii.gz", tmp_path / "1.3.46" / "1.3.46_seg.nii.gz"):
        file.touch()
    assert find_images(str(tmp_path)) == find_images(str(tmp_path / "1.3.46")) == [{"image": str(tmp_path / "1.3.46")}]


# links


def test_links_lead_to_scans_and_two_to_one_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    write_series(tmp_path / "dicom", "1.dcm")
    for folder in (store, root):
        folder.mkdir()
    for file in (store / "b.nii.gz", root / "a.nii.gz"):
        file.touch()
    for name, target in {"b.nii.gz": store / "b.nii.gz", "0.nii.gz": root / "a.nii.gz", "series": tmp_path / "dicom",
                         "twin": tmp_path / "dicom", "loop": root, "gone.nii.gz": store / "gone"}.items():  # fmt: skip
        (root / name).symlink_to(target)
    assert names(find_images(str(root))) == ["a", "b", "gone", "series"]  # of the missing one its reader tells
    assert f"{root / 'a.nii.gz'} and {root / '0.nii.gz'} are one" in caplog.text


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
