"""Which files are images and labels and which belong together, in layouts as public data sets are unpacked in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import write_series

from simcvd_bundle.commands.init.finding import find_scans
from simcvd_bundle.data.masks import PREDICTED
from simcvd_bundle.data.scans import LABEL_DATASTORE, find_images


def pairs(root: Path, **options: Any) -> dict[str, str | None]:
    scans, _ = find_scans(root, **options)
    return {
        "+".join(path.relative_to(root).as_posix() for path in scan.image):
        None if scan.label is None else scan.label.relative_to(root).as_posix()
        for scan in scans
    }  # fmt: skip


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["images/a.nii.gz", "images/b.nii", "labels/a.nii.gz"],
         {"images/a.nii.gz": "labels/a.nii.gz", "images/b.nii": None}),
        (["a.nrrd", "a_seg.nrrd", "b.mha"], {"a.nrrd": "a_seg.nrrd", "b.mha": None}),
        (["x/image.nii", "x/label.nii", "y/image.nii"], {"x/image.nii": "x/label.nii", "y/image.nii": None}),
        (["x/mri.nii", "x/mask.nii", "y/mri.nii"], {"x/mri.nii": "x/mask.nii", "y/mri.nii": None}),
        (["imagesTr/c_001_0000.nii.gz", "labelsTr/c_001.nii.gz", "imagesTs/c_002_0000.nii.gz"],
         {"imagesTr/c_001_0000.nii.gz": "labelsTr/c_001.nii.gz", "imagesTs/c_002_0000.nii.gz": None}),
        (["imagesTr/c_0000.nii.gz", "imagesTr/c_0001.nii.gz", "labelsTr/c.nii.gz"],
         {"imagesTr/c_0000.nii.gz+imagesTr/c_0001.nii.gz": "labelsTr/c.nii.gz"}),
        (["s_0001.nii", "s_0002.nii", "labels/s_0002.nii"], {"s_0001.nii": None, "s_0002.nii": "labels/s_0002.nii"}),
        (["a.nii.gz", "._a.nii.gz", ".cache/b.nii.gz", "notes.txt"], {"a.nii.gz": None}),
        (["my scan é.nii.gz", "masks/my scan é.nii.gz"], {"my scan é.nii.gz": "masks/my scan é.nii.gz"}),
        (["a/1.nii", "b/1.nii", "a/1_seg.nii"], {"a/1.nii": "a/1_seg.nii", "b/1.nii": None}),
        (["data/PanSeg_1.nii", "data/PanSeg_2.nii", "truth/PanSeg_1.nii"],  # a word that all names have says nothing
         {"data/PanSeg_1.nii": "truth/PanSeg_1.nii", "data/PanSeg_2.nii": None}),
        (["seg_2020/images/1.nii", "seg_2020/labels/1.nii", "other/2.nii"],
         {"other/2.nii": None, "seg_2020/images/1.nii": "seg_2020/labels/1.nii"}),
        (["t1/c1.nii", "t1/c1_scan.nii"], {"t1/c1.nii": None, "t1/c1_scan.nii": None}),
    ],
)  # fmt: skip
def test_files_and_what_they_are(tmp_path: Path, files: list[str], expected: dict[str, str | None]) -> None:
    touch(tmp_path, *files)
    assert pairs(tmp_path) == expected


LAYOUTS = {
    "LiTS": ("volume-{n}.nii", "segmentation-{n}.nii"),
    "LiTS, folders": ("ct/volume-{n}.nii", "seg/segmentation-{n}.nii"),
    "BTCV": ("img/img{n:04d}.nii.gz", "label/label{n:04d}.nii.gz"),
    "KiTS": ("case_{n:05d}/imaging.nii.gz", "case_{n:05d}/segmentation.nii.gz"),
    "MONAI Label": ("case{n}.nii.gz", "labels/final/case{n}.nii.gz"),
    "in front": ("case{n}.nii.gz", "mask_case{n}.nii.gz"),
    "TotalSegmentator, one class": ("s{n:04d}/ct.nii.gz", "s{n:04d}/segmentations/liver.nii.gz"),
    "PROMISE12": ("Case{n:02d}.mhd", "Case{n:02d}_segmentation.mhd"),
    "CADA": ("images/A{n:03d}_orig.nii.gz", "masks/A{n:03d}_labeledMasks.nii.gz"),
    "ACDC": ("patient{n:03d}/patient{n:03d}_frame01.nii.gz", "patient{n:03d}/patient{n:03d}_frame01_gt.nii.gz"),
    "AMOS": ("imagesTr/amos_{n:04d}.nii.gz", "labelsTr/amos_{n:04d}.nii.gz"),
    "FLARE": ("imagesTr/FLARE22_Tr_{n:04d}_0000.nii.gz", "labelsTr/FLARE22_Tr_{n:04d}.nii.gz"),
    "AbdomenCT-1K": ("AbdomenCT-1K-ImagePart1/Case_{n:05d}_0000.nii.gz", "Mask/Case_{n:05d}.nii.gz"),
    "ImageCAS": ("{n}.img.nii.gz", "{n}.label.nii.gz"),
    "SegTHOR": ("train/Patient_{n:02d}/Patient_{n:02d}.nii.gz", "train/Patient_{n:02d}/GT.nii.gz"),
    "HECKTOR, CT alone": ("imagesTr/CHUM-{n:03d}__CT.nii.gz", "labelsTr/CHUM-{n:03d}.nii.gz"),
    "VerSe": ("rawdata/sub-verse{n:03d}/sub-verse{n:03d}_ct.nii.gz",
              "derivatives/sub-verse{n:03d}/sub-verse{n:03d}_seg-vert_msk.nii.gz"),
    "BIDS": ("sub-{n:02d}/anat/sub-{n:02d}_T1w.nii.gz",
             "derivatives/manual/sub-{n:02d}/anat/sub-{n:02d}_desc-x_mask.nii.gz"),
    "camels": ("trainImages/scan{n}.nii", "trainMasks/scan{n}Mask.nii"),
    "CHAOS, converted": ("CT/{n}/image.nii.gz", "CT/{n}/Ground/liver_GT.nii.gz"),
    "number glued": ("volume{n}.nii.gz", "mask{n}.nii.gz"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(tmp_path: Path, name: str) -> None:
    image, label = LAYOUTS[name]
    expected = {image.format(n=n): label.format(n=n) for n in (1, 2, 13)}
    touch(tmp_path, *expected, *expected.values())
    assert pairs(tmp_path) == expected
    (tmp_path / label.format(n=2)).unlink()
    if name not in ("VerSe", "BIDS"):
        (tmp_path / label.format(n=1)).unlink()  # what is in all names is known of two names at least
        expected[image.format(n=1)] = None  # type: ignore[assignment]
    assert pairs(tmp_path) == {**expected, image.format(n=2): None}


REMEDIES: dict[str, tuple[list[str], str, str]] = {
    "TotalSegmentator": (["s{n:04d}/ct.nii.gz", *(f"s{{n:04d}}/segmentations/{organ}.nii.gz" for organ in
                          ("liver", "spleen", "vertebrae_L1"))],
                         "s{n:04d}/ct.nii.gz", "s{n:04d}/segmentations/liver.nii.gz"),
    "HECKTOR": (["imagesTr/CHUM-{n:03d}__CT.nii.gz", "imagesTr/CHUM-{n:03d}__PT.nii.gz",
                 "labelsTr/CHUM-{n:03d}.nii.gz"],
                "imagesTr/CHUM-{n:03d}__CT.nii.gz", "labelsTr/CHUM-{n:03d}.nii.gz"),
    "BraTS": (["b{n}/b{n}_flair.nii", "b{n}/b{n}_t1.nii", "b{n}/b{n}_t1ce.nii", "b{n}/b{n}_seg.nii"],
              "b{n}/b{n}_flair.nii", "b{n}/b{n}_seg.nii"),
    "LNDb": (["data{n}/LNDb-000{n}.mhd", "masks/LNDb-000{n}_rad1.mhd", "masks/LNDb-000{n}_rad2.mhd"],
             "data{n}/LNDb-000{n}.mhd", "masks/LNDb-000{n}_rad1.mhd"),
    "KiTS23": (["case_{n:05d}/imaging.nii.gz", "case_{n:05d}/segmentation.nii.gz",
                "case_{n:05d}/instances/kidney_instance-1_annotation-1.nii.gz"],
               "case_{n:05d}/imaging.nii.gz", "case_{n:05d}/segmentation.nii.gz"),
    "two modalities": (["sub-{n:02d}/sub-{n:02d}_T1w.nii.gz", "sub-{n:02d}/sub-{n:02d}_T2w.nii.gz",
                        "derivatives/sub-{n:02d}/sub-{n:02d}_lesion_mask.nii.gz"],
                       "sub-{n:02d}/sub-{n:02d}_T1w.nii.gz", "derivatives/sub-{n:02d}/sub-{n:02d}_lesion_mask.nii.gz"),
    "classes beside": (["case{n}.nii.gz", "labels/case{n}_liver.nii.gz", "labels/case{n}_spleen.nii.gz"],
                       "case{n}.nii.gz", "labels/case{n}_liver.nii.gz"),
    "foreign words": (["ct/K{n}_ven.nii.gz", "delineations/K{n}_tum_seg.nii.gz", "ct/K{n}_art.nii.gz"],
                      "ct/K{n}_art.nii.gz", "delineations/K{n}_tum_seg.nii.gz"),
    "labels without a word": (["{n}/CT_{n}.nii.gz", "{n}/drawn_{n}_seg_a.nii.gz", "{n}/drawn_{n}_seg_b.nii.gz"],
                              "{n}/CT_{n}.nii.gz", "{n}/drawn_{n}_seg_a.nii.gz"),
    "drafts and finals": (["case{n}.nii.gz", "labels/final/case{n}.nii.gz", "labels/original/case{n}.nii.gz"],
                          "case{n}.nii.gz", "labels/final/case{n}.nii.gz"),
}  # fmt: skip


@pytest.mark.parametrize("name", REMEDIES)
def test_the_remedy_that_an_error_prints_works(tmp_path: Path, name: str) -> None:
    """Three scans, three labels with the options of the message, taken as a shell would."""
    files, image, label = REMEDIES[name]
    touch(tmp_path, *(file.format(n=n) for file in files for n in (1, 2, 3)))
    with pytest.raises(ValueError, match="--labels") as error:
        find_scans(tmp_path)
    options = dict(re.findall(r'--(images|labels) ("[^"]*")', str(error.value)))
    found = pairs(tmp_path, **{option: shlex.split(text)[0] for option, text in options.items()})
    assert {image: label for image, label in found.items() if label} == {
        image.format(n=n): label.format(n=n) for n in (1, 2, 3)
    }
    assert len(found) == 3 or name == "BraTS"


def test_patterns_and_channels_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "p1/lgemri.nrrd", "p1/laendo.nrrd", "p1/other.nrrd", "p2/lgemri.nrrd")
    found = pairs(tmp_path, images="*/lgemri.nrrd", labels="*/laendo.nrrd")
    assert found == {"p1/lgemri.nrrd": "p1/laendo.nrrd", "p2/lgemri.nrrd": None}
    brats = tmp_path / "brats"
    touch(brats, "b1/b1_t1.nii", "b1/b1_flair.nii", "b1/b1_seg.nii", "b2/b2_t1.nii", "b2/b2_flair.nii")
    assert pairs(brats, in_channels=2) == {
        "b1/b1_flair.nii+b1/b1_t1.nii": "b1/b1_seg.nii", "b2/b2_flair.nii+b2/b2_t1.nii": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.nii", "labels/b.nii"], "label .*b.nii fits no image: name it like its image"),
        (["a.nii", "a_seg.nii", "masks/a.nii"], "has 2 labels"),
        (["x/a.nii", "x/b.nii", "x/c_seg.nii"], "c_seg.nii fits 2 images"),
        (["p/s1.nii", "p/s2_seg.nii"], "s2_seg.nii fits no image"),
        (["case1.nii", "case12.nii", "case1_2_seg.nii"], "case1_2_seg.nii fits no image"),
        (["p1/a.nii", "p2/a_seg.nii", "p3/b.nii"], "p2/a_seg.nii fits no image"),
        (["readme.txt"], "holds no image"),
        (["mask/a.nii", "b_seg.nii"], r"all 2 files are named like labels, .* Say which are images with --images"),
    ],
)
def test_what_does_not_pair_is_named(tmp_path: Path, files: list[str], message: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_scans(tmp_path)


def test_dicom_series_with_labels_beside_and_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Known by their content, whatever files and folders are called; a series called like a label is no image."""
    array = np.arange(6 * 5 * 4).reshape(6, 5, 4)
    for folder in ("p1/dicom", "images/1.3.46.67.2", "images/scan.v2", "segmentations/1.3.46.67.2"):
        write_series(tmp_path / folder, array, (0.8, 0.8, 5.0))
    for number, file in enumerate(sorted((tmp_path / "images" / "scan.v2").iterdir())):
        file.rename(file.with_name(f"MR.1.3.46.{number}"))
    touch(tmp_path, "p1/label.nii.gz", "labels/1.3.46.67.2.nii.gz", "labels/scan.v2.nii.gz")
    assert pairs(tmp_path) == {
        "images/1.3.46.67.2": "labels/1.3.46.67.2.nii.gz", "images/scan.v2": "labels/scan.v2.nii.gz",
        "p1/dicom": "p1/label.nii.gz",
    }  # fmt: skip
    assert "segmentations/1.3.46.67.2 first: named like labels, so no images" in caplog.text


def test_a_mask_and_a_result_among_the_slices_of_a_series(tmp_path: Path) -> None:
    """Neither hides the series; the mask is its label, also of the only series."""
    for folder in ("p1", "p2"):
        write_series(tmp_path / folder, np.arange(6 * 5 * 4).reshape(6, 5, 4), (0.8, 0.8, 5.0))
    touch(tmp_path, "p1/label.nii.gz")
    predicted(tmp_path / "p2" / "p2_seg.nii.gz")
    assert pairs(tmp_path) == {"p1": "p1/label.nii.gz", "p2": None}
    assert find_images(str(tmp_path / "p1")) == [{"image": str(tmp_path / "p1")}]


def predicted(path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))
    image.header["descrip"] = PREDICTED
    path.parent.mkdir(exist_ok=True)
    nib.save(image, path)


def test_results_of_the_bundle_are_neither_images_nor_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unless somebody asks for the masks; the same name without the mark is a label."""
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz", "c_seg.nii.gz", "c_sdm.nii.gz")
    for name in ("a_seg", "a_probability", "b_seg", "out/b_sdm"):
        predicted(tmp_path / f"{name}.nii.gz")
    assert pairs(tmp_path) == {"a.nii.gz": None, "b.nii.gz": None, "c.nii.gz": "c_seg.nii.gz"}
    [message] = caplog.messages
    assert re.match(r"5 files left out, .*: results of the bundle, neither images nor labels; --labels", message)
    pattern = shlex.split(message.partition("--labels ")[2])[0]
    assert pairs(tmp_path, labels=pattern) == {f"{name}.nii.gz": f"{name}_seg.nii.gz" for name in "abc"}


def test_drafts_of_monai_label_are_no_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "labels/final/a.nii.gz", "labels/original/a.nii.gz",
          "labels/original/b.nii.gz", LABEL_DATASTORE)  # fmt: skip
    assert pairs(tmp_path) == {"a.nii.gz": "labels/final/a.nii.gz", "b.nii.gz": None}
    assert "2 files left out" in caplog.text
    assert pairs(tmp_path, labels="labels/original/*")["b.nii.gz"] == "labels/original/b.nii.gz"


def test_links_are_followed_and_what_two_lead_to_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    touch(store, "site_b/images/b.nii", "site_b/labels/b.nii", "empty.nii")
    touch(root, "site_a/images/a.nii", "site_a/labels/a.nii", "site_a/images/c.nii")
    (root / "site_b").symlink_to(store / "site_b")
    (root / "again").symlink_to(store / "site_b")  # the same folder
    (root / "site_a" / "images" / "up").symlink_to(root)  # a cycle
    (root / "0.nii").symlink_to(root / "site_a" / "images" / "a.nii")  # the same file
    for name in ("e", "f"):  # two scans, one empty mask, as a store that knows files by their content has it
        touch(root, f"images/{name}.nii")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.nii").symlink_to(store / "empty.nii")
    (root / "images" / "gone").symlink_to(store / "gone")
    assert pairs(root) == {
        "again/images/b.nii": "again/labels/b.nii", "images/e.nii": "labels/e.nii", "images/f.nii": "labels/f.nii",
        "site_a/images/a.nii": "site_a/labels/a.nii", "site_a/images/c.nii": None,
    }  # fmt: skip
    for text in (f"{root / 'site_a/images/a.nii'} and {root / '0.nii'} are one", "gone leads nowhere"):
        assert text in caplog.text


def test_inference_groups_channels_as_training_does(tmp_path: Path) -> None:
    touch(tmp_path, "a_t1.nii", "a_flair.nii", "b_4d.nii", "a_seg.nii")
    scans = [item["image"] for item in find_images(str(tmp_path), in_channels=2)]
    assert scans == [[str(tmp_path / "a_flair.nii"), str(tmp_path / "a_t1.nii")], str(tmp_path / "b_4d.nii")]
    assert len(find_images(str(tmp_path))) == 3
    touch(tmp_path, "p_01.nii", "p_02.nii")
    for find in (find_images, find_scans):
        with pytest.raises(ValueError, match=r"p_01.nii, p_02.nii in .* could be the channels of one scan or 2 scans"):
            find(tmp_path, in_channels=2)  # type: ignore[operator]
