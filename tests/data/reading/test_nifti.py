"""NIfTI: which form of a header places the voxels, and what masks take over from it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from simcvd_bundle.data.reading import open_volume, read_scan
from simcvd_bundle.data.reading.nifti import nifti_image

SHAPE = (4, 5, 6)
TILT = np.tan(np.deg2rad(20))
LPS = np.array([[-1, 0, 0, 10], [0, -1, 0, 20], [0, 0, 2, -30], [0, 0, 0, 1.0]])
SHEARED = np.array([[-1, 0, 0, 12], [0, 1, 5 * TILT, -11], [0, 0, 5, -40], [0, 0, 0, 1.0]])
UPRIGHT = np.array([[-1, 0, 0, 12], [0, 1, 0, -11], [0, 0, 5, -40], [0, 0, 0, 1.0]])


def write(
    path: Path, sform: Any = None, qform: Any = None, sizes: Any = None, codes: Any = None, units: str = "mm",
    array: Any = None,
) -> Path:  # fmt: skip
    """A file with these forms; ``sizes`` is pixdim where it differs from the qform's."""
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(SHAPE) if array is None else array, None)
    header = image.header
    if qform is not None:
        header.set_qform(qform, code=1, strip_shears=True)
    if sform is not None:
        header.set_sform(sform, code=1)
    if sizes is not None:
        header["pixdim"][1:4] = sizes
    if codes is not None:
        header["sform_code"], header["qform_code"] = codes
    header.set_xyzt_units(units)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("forms", "expected"),
    [
        ({"sform": LPS, "sizes": (1, 1, 1), "codes": (1, 0)}, LPS),  # scripts that set the sform alone
        ({"sform": LPS, "qform": np.eye(4)}, LPS),  # the same with a placeholder as qform
        ({"sform": np.diag([-1.0, -1.0, 1.0, 1.0]), "qform": np.diag([-1.3, -1.3, 10.0, 1.0])},
         np.diag([-1.3, -1.3, 10.0, 1.0])),  # raw ACDC
        ({"sform": np.diag([0.0, 0.0, 0.0, 1.0]), "qform": LPS}, LPS),
        ({"sform": SHEARED, "qform": UPRIGHT, "sizes": (1, 1, 5)}, SHEARED),  # converters of tilted CT
        ({"sform": SHEARED, "qform": UPRIGHT, "sizes": (1, 1, np.hypot(5, 5 * TILT))}, SHEARED),
        ({"qform": LPS}, LPS),
        ({"sform": LPS, "qform": UPRIGHT, "codes": (0, 1)}, UPRIGHT),
        ({"sizes": (1, 2, 3), "codes": (0, 0)},
         [[-1, 0, 0, 1.5], [0, 2, 0, -4], [0, 0, 3, -7.5], [0, 0, 0, 1]]),  # nibabel's, around the centre
        ({"sform": np.diag([0.7, 0.7, 2.0, 1.0]), "qform": np.diag([0.702, 0.7, 2.0, 1.0])}, np.diag([0.7, 0.7, 2, 1])),
        ({"sform": np.diag([2e-3, 2e-3, 3e-3, 1.0]), "units": "meter"}, np.diag([2.0, 2.0, 3.0, 1.0])),
        ({"sform": np.diag([20.0, 20.0, 30.0, 1.0]), "units": "micron"}, np.diag([0.02, 0.02, 0.03, 1.0])),
        ({"sform": np.diag([1e-6, 1e-6, 1e-6, 1.0]), "units": "unknown"}, np.diag([1e-6, 1e-6, 1e-6, 1.0])),
    ],
)  # fmt: skip
def test_one_form_places_the_voxels(tmp_path: Path, forms: dict[str, Any], expected: Any) -> None:
    """Image, mask and header agree: what reads the mask by either form finds what it finds in the scan."""
    scan = write(tmp_path / "a.nii.gz", **forms)
    grid = open_volume(scan).grid
    np.testing.assert_allclose(grid.affine, expected, rtol=1e-5)
    np.testing.assert_allclose(read_scan(scan).affine, grid.affine)
    nib.save(nifti_image(np.ones(SHAPE, np.uint8), grid.affine, scan), tmp_path / "mask.nii.gz")
    mask, image = nib.load(tmp_path / "mask.nii.gz"), nib.load(scan)
    np.testing.assert_array_equal(mask.affine, image.affine)
    for form in ("get_sform", "get_qform"):
        for of_mask, of_image in zip(*(getattr(x.header, form)(coded=True) for x in (mask, image)), strict=True):
            np.testing.assert_array_equal(of_mask, of_image)
    assert mask.header.get_xyzt_units()[0] == image.header.get_xyzt_units()[0]
    assert mask.header.get_zooms() == image.header.get_zooms()
    assert (mask.shape, mask.get_data_dtype()) == (SHAPE, np.uint8)
    assert np.asarray(mask.dataobj).all()


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ({"sform": np.diag([2.0, 2.0, 2.0, 1.0]), "qform": np.diag([3.0, 3.0, 3.0, 1.0])},
         "a.nii.gz cannot be read: its sform has voxels of 2 x 2 x 2, its pixdim and qform of 3 x 3 x 3"),
        ({"sform": np.eye(4), "sizes": (1.3, 1.3, 10), "codes": (1, 0)}, "contradicts itself. Find out which is right"),
        ({"sform": np.diag([0.0, 0.0, 0.0, 1.0]), "codes": (1, 0)}, "sform has voxels of 0 x 0 x 0"),
        ({"sform": np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])}, "contradicts|singular"),
        ({"sform": np.full((4, 4), np.nan)}, "contradicts|not finite"),
        ({"array": np.zeros((4, 5), np.int16)}, r"shape \(4, 5\): three axes are expected"),
        ({"array": np.zeros((4, 5, 6, 2, 3), np.int16)}, "at most one more of channels"),
        ({"array": np.zeros(SHAPE, np.complex64)}, "complex numbers, not one number a voxel"),
        ({"array": np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])}, "holds colours"),
    ],
)  # fmt: skip
def test_what_is_no_scan_is_refused_by_name(tmp_path: Path, forms: dict[str, Any], message: str) -> None:
    scan = write(tmp_path / "a.nii.gz", **forms)
    with pytest.raises(ValueError, match=message) as error:
        open_volume(scan)
    assert str(scan) in str(error.value)


@pytest.mark.parametrize(
    ("shape", "channels"), [((4, 5, 1), 1), ((4, 5, 6, 3), 3), ((4, 5, 6, 1, 3), 3), ((1, 5, 6), 1), ((4, 5, 6, 1), 1)]
)
def test_axes_stay(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    """Of one slice too; axes beyond the third are channels."""
    array = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    volume = open_volume(write(tmp_path / "a.nii", sform=LPS, array=array))
    assert (volume.grid.shape, volume.channels) == (shape[:3], channels)
    np.testing.assert_array_equal(volume.voxels(), array.reshape(*shape[:3], channels))
    np.testing.assert_array_equal(volume.voxels(0, 1), array.reshape(*shape[:3], channels)[:, :, :1])
    mask = nifti_image(np.ones(shape[:3], np.uint8), volume.grid.affine, volume.path)
    assert mask.shape == shape[:3]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32",
                                   "float64"])  # fmt: skip
def test_values_are_exact(tmp_path: Path, dtype: str) -> None:
    array = np.zeros(SHAPE, dtype)
    limits = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    array[0, 0, :2] = limits.min, min(limits.max, 2**63 - 1) if dtype == "uint64" else limits.max
    image = nib.Nifti1Image(array, LPS, dtype=dtype)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz").numpy()[0]
    assert scan[0, 0].tolist() == array[0, 0].tolist()
    assert scan.dtype.kind == array.dtype.kind.replace("u", "u" if dtype == "uint8" else "i")


def test_scaled_values_are_those_of_nibabel(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(SHAPE), LPS)
    image.header.set_slope_inter(0.25, -1024)
    raw = image.to_bytes()
    (tmp_path / "UPPER.NII.GZ").write_bytes(gzip.compress(raw))
    expected = nib.Nifti1Image.from_bytes(raw).get_fdata()
    np.testing.assert_array_equal(read_scan(tmp_path / "UPPER.NII.GZ").numpy()[0], expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    sizes=st.tuples(*[st.floats(0.2, 8)] * 3),
    shear=st.floats(-0.5, 0.5),
    flips=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
    codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
def test_image_and_mask_share_their_place(
    tmp_path: Path, angles: Any, sizes: Any, shear: float, flips: Any, origin: Any, codes: tuple[int, int]
) -> None:
    """Of any header, by nibabel's reading and by ours: oblique, flipped, sheared, any codes."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(flips) @ np.diag(sizes)
    qform = affine.copy()
    affine[:3, 2] += shear * affine[:3, 1] * sizes[2] / sizes[1]
    affine[:3, 3] = qform[:3, 3] = origin
    scan = write(tmp_path / "a.nii", sform=affine, qform=qform, codes=codes)
    grid = open_volume(scan).grid
    nib.save(nifti_image(np.ones(SHAPE, np.uint8), grid.affine, scan), tmp_path / "mask.nii")
    image, mask = nib.load(scan), nib.load(tmp_path / "mask.nii")
    np.testing.assert_array_equal(mask.affine, image.affine)
    np.testing.assert_allclose(grid.affine, image.affine, atol=1e-4)
    np.testing.assert_allclose(open_volume(tmp_path / "mask.nii").grid.affine, grid.affine)
