"""Files to tensors: channels on one grid, labels on that of their image, exact values of any array."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, Spacingd

from simcvd_bundle.data.reading import LoadLabeld, LoadScand, as_tensor, open_channels, open_volume, read_scan

SHAPE = (6, 5, 4)


def write(path: Path, affine: np.ndarray, array: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.float32) if array is None else array, affine), path)
    return path


def oblique(degrees: float = 7) -> np.ndarray:
    a = np.deg2rad(degrees)
    affine = np.array([[np.cos(a), -np.sin(a), 0, -12.3], [np.sin(a), np.cos(a), 0, 7.1], [0, 0, 1.5, 3.3],
                       [0, 0, 0, 1]])  # fmt: skip
    affine[:3, :2] *= 0.9
    return affine


def test_channels_share_a_grid_up_to_rounding(tmp_path: Path) -> None:
    """The first one's counts."""
    files = [write(tmp_path / "a.nii", oblique(), np.zeros(SHAPE, np.int16)),
             write(tmp_path / "b.nii", oblique().round(4), np.ones(SHAPE, np.float32))]  # fmt: skip
    scan = read_scan(files)
    assert scan.shape == (2, *SHAPE)
    assert [float(channel.max()) for channel in scan] == [0, 1]
    np.testing.assert_allclose(scan.affine, oblique(), atol=1e-6)
    assert scan.meta["filename_or_obj"] == str(files[0])
    moved = oblique()
    moved[0, 3] += 0.2
    files[1] = write(tmp_path / "b.nii", moved)
    with pytest.raises(ValueError, match=r"b.nii does not lie on the grid of .*a.nii: corners up to 0.2 mm apart"):
        open_channels(files)


def test_a_label_takes_the_grid_of_its_image(tmp_path: Path) -> None:
    """So that both are resampled to one shape; the image has been already."""
    shape = (8, 8, 12)
    item = {
        "image": str(write(tmp_path / "a.nii", np.diag([0.5, 0.5, 4.998, 1]), np.ones(shape, np.int16))),
        "label": str(write(tmp_path / "b.nii", np.diag([0.5, 0.5, 5.002, 1]), np.ones(shape, np.uint8))),
    }
    loaded = Compose([LoadScand("image"), Spacingd("image", (1, 1, 2)), LoadLabeld("label"),
                      Spacingd("label", (1, 1, 2), mode="nearest")])(item)  # fmt: skip
    assert loaded["image"].shape == loaded["label"].shape
    assert torch.equal(loaded["image"].affine, loaded["label"].affine)


@pytest.mark.parametrize(
    ("affine", "array", "message"),
    [
        (np.diag([1.0, 1, 1, 1]), np.ones((6, 5, 5), np.uint8), r"shape \(6, 5, 4\) against \(6, 5, 5\)"),
        (np.diag([-1.0, 1, 1, 1]), np.ones(SHAPE, np.uint8), "b.nii does not lie on the grid of its image: corners up"),
        (np.diag([1.0, 1, 1.05, 1]), np.ones(SHAPE, np.uint8), "corners up to 0.15 mm apart: affine"),
        (np.eye(4), np.ones((*SHAPE, 2), np.uint8), "label .*b.nii has 2 channels"),
    ],
)  # fmt: skip
def test_labels_elsewhere_are_refused(tmp_path: Path, affine: np.ndarray, array: np.ndarray, message: str) -> None:
    item = {"image": str(write(tmp_path / "a.nii", np.eye(4))), "label": str(write(tmp_path / "b.nii", affine, array))}
    with pytest.raises(ValueError, match=message):
        LoadLabeld("label")(LoadScand("image")(item))


def test_tolerance_knows_no_millimetres(tmp_path: Path) -> None:
    """Voxels of micrometres, in metres as the header's unit says or not."""
    for scale in (1e-6, 1e6):
        affine = np.diag([scale, scale, scale, 1.0])
        first = open_volume(write(tmp_path / "a.nii", affine)).grid
        affine[0, 3] = 0.05 * scale
        assert first.difference(open_volume(write(tmp_path / "b.nii", affine)).grid) == ""
        affine[0, 3] = 0.2 * scale
        assert "apart" in first.difference(open_volume(write(tmp_path / "b.nii", affine)).grid)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent.nii does not exist"):
        LoadScand("image")({"image": str(tmp_path / "absent.nii")})
    assert LoadLabeld("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    transform = LoadScand("image")
    assert isinstance(transform, LoadImaged)  # by which MONAI Label knows it,
    transform._loader.image_only = False  # and what it then does


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::-1], lambda x: x.T, lambda x: x.astype(">i2"), lambda x: x.astype(">f8"),
        lambda x: x.astype(np.float16), lambda x: x.astype(np.uint16), lambda x: x.astype(">u8"),
        lambda x: x.astype(bool), lambda x: np.asfortranarray(x), lambda x: x[::2, :, 1:],
        lambda x: x.astype(np.longdouble),
    ],
)  # fmt: skip
def test_any_array_of_real_numbers_becomes_a_tensor(view: object) -> None:
    array = view(np.arange(24, dtype=np.int16).reshape(2, 3, 4))  # type: ignore[operator]
    array.flags.writeable = False
    tensor = as_tensor(array)
    assert tensor.is_contiguous()
    assert tensor.tolist() == array.tolist()
    assert tensor.float().sum() == array.astype(float).sum()


def test_integers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="values above 9223372036854775807"):
        as_tensor(np.array([2**63], np.uint64))
