"""What names say, and how results are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from simcvd_bundle.data.names import case_words, is_named_label, result_file, stem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii", "a"), ("a.nii.gz", "a"), ("UPPER.NII.GZ", "UPPER"), ("a.nii.mha", "a.nii"), ("a.nii.nii.gz", "a.nii"),
        ("1.2.84.nrrd", "1.2.84"), ("a.mhd", "a"), ("scan.v2", "scan.v2"), ("1.3.46.670589.11.20.1",) * 2,
        ("a.nii.zip", "a.nii.zip"), (".nii.gz", ""),
    ],
)  # fmt: skip
def test_one_suffix_is_cut(name: str, expected: str) -> None:
    assert stem(Path("x.nii", name)) == expected


def test_a_folder_keeps_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "a.nii").mkdir()
    assert stem(tmp_path / "a.nii") == "a.nii"


def test_results_repeat_the_folders_below_one_that_holds_all() -> None:
    assert result_file("/in/p1/1.2.NII.GZ", "out", "seg") == Path("out/1.2_seg.nii.gz")
    assert result_file("/in/p1/a.mha", "out", "sdm", "/in") == Path("out/p1/a_sdm.nii.gz")
    with pytest.raises(ValueError, match="does not lie in /elsewhere"):
        result_file("/in/a.mha", "out", "seg", "/elsewhere")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("segmentation-1", ("1",)), ("label0001", ("0001",)), ("A001_labeledMasks", ("A001",)), ("1.img", ("1",)),
        ("sub-verse004_seg-vert_msk", ("sub", "verse004", "vert")), ("imagesTr", ("Tr",)), ("scan13Mask", ("13",)),
        ("ground_truth", ()), ("FLARE22_Tr_0001", ("FLARE22", "Tr", "0001")), ("Münster 2", ("Münster", "2")),
    ],
)  # fmt: skip
def test_words_that_tell_cases_apart(name: str, expected: tuple[str, ...]) -> None:
    assert case_words(name) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.nii", False), ("labelsTr/a.nii", True), ("a_GT.nii", True), ("masks/final/a.nii", True),
        ("brain_seg_2020/images/a.nii", False), ("brain_seg_2020/a.nii", True), ("images/a_seg.nii", True),
        ("labels_and_images/a.nii", False), ("segment/scanner/a.nii", False),
    ],
)  # fmt: skip
def test_labels_are_known_by_words(path: str, expected: bool) -> None:
    assert is_named_label(Path(path)) is expected
