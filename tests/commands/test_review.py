"""The page of the masks to look at."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from simcvd_bundle.commands.review import review
from simcvd_bundle.inference.case_table import DONE, FAILED, CaseTable


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Five masks, of which number 3 has no score, and a failed scan."""
    folder = tmp_path / "masks"
    table = CaseTable(str(folder), {"1": "<atrium>"})
    table.start("0123abcd", keep_others=True)
    folder.mkdir()
    for number, score in enumerate(["0.9", "0.5", "0.7", "", "0.8"]):
        image = np.random.RandomState(number).rand(9, 8, 7).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"scan_{number}.nii.gz")
        mask = np.zeros((9, 8, 7), np.uint8)
        mask[2:6, 2:6, 2:5] = number != 2  # number 2 is empty
        nib.save(nib.Nifti1Image(mask, np.eye(4)), folder / f"scan_{number}_seg.nii.gz")
        table.add(str(tmp_path / f"scan_{number}.nii.gz"), DONE, {
            "quality": score, "predicted_dice": score, "<atrium>_ml": "48", "files": f"scan_{number}_seg.nii.gz",
        })  # fmt: skip
    table.add(str(tmp_path / "bad.nii.gz"), FAILED, {"error": "<b>damaged</b>"})
    return folder


def test_the_worst_come_first_with_a_picture(masks: Path) -> None:
    review(str(masks), worst=3)
    page = (masks / "review.html").read_text()
    places = [page.index(f"<th scope=\"row\">{masks.parent / name}") for name in
              ("scan_3.nii.gz", "scan_1.nii.gz", "scan_2.nii.gz", "bad.nii.gz")]  # fmt: skip
    assert places == sorted(places)
    assert "scan_0.nii.gz" not in page
    assert page.count("data:image/png") == 3
    assert "3 of 5 masks" in page
    assert "&lt;atrium&gt;_ml" in page
    assert "&lt;b&gt;damaged" in page


def test_a_scan_or_mask_that_is_gone_is_named(masks: Path) -> None:
    (masks.parent / "scan_1.nii.gz").unlink()
    (masks / "scan_2_seg.nii.gz").unlink()
    review(str(masks))
    page = (masks / "review.html").read_text()
    assert page.count("data:image/png") == 3
    for name in ("scan_1.nii.gz", "scan_2.nii.gz"):
        assert f"{masks.parent / name} is not shown: " in page


def test_bad_arguments_are_named(tmp_path: Path, masks: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cases\.csv is missing: segment scans with configs/inference\.json"):
        review(str(tmp_path / "none"))
    for worst in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"worst is .*, but must be a whole number of at least 1"):
            review(str(masks), worst=worst)
