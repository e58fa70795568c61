"""DICOM series: grid, values and orientation against the truth, and what is no volume is refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import affine_of, new_file, phantom, save, set_pixels, write_multi_frame, write_series, write_slice
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data.image_reader import ITKReader
from pydicom.uid import (
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)
from scipy.spatial.transform import Rotation

from simcvd_bundle.data.reading.dicom import DicomSeries, is_dicom_folder
from simcvd_bundle.data.reading.dicom_files import read_header

SAGITTAL = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])
CORONAL = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
OBLIQUE = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()


def check(series: DicomSeries, volume: np.ndarray, affine: np.ndarray) -> None:
    """Every voxel has its value and its place."""
    assert series.grid.shape == volume.shape
    np.testing.assert_allclose(series.grid.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(series.voxels()[..., 0], volume)


def itk_reads(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values and affine as MONAI's reader gives them, which read all series before."""
    reader = ITKReader()
    array, meta = reader.get_data(reader.read(str(folder)))
    return array, meta["affine"]


@pytest.mark.parametrize(
    "turn", [np.eye(3), SAGITTAL, CORONAL, OBLIQUE], ids=["axial", "sagittal", "coronal", "oblique"]
)
@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), [3, 7, 0, 5, 1, 2, 6, 4]], ids=["up", "down", "mixed"])
def test_slices_lie_where_they_were_scanned_and_as_itk_gave_them(
    tmp_path: Path, turn: np.ndarray, order: list[int]
) -> None:
    affine = affine_of(turn=turn)
    write_series(tmp_path, phantom(), affine, order)
    series = DicomSeries(tmp_path)
    check(series, phantom(), affine)
    assert series.voxels().dtype == np.int16
    array, itk_affine = itk_reads(tmp_path)
    np.testing.assert_array_equal(series.voxels()[..., 0], array)
    np.testing.assert_allclose(series.grid.affine, itk_affine, atol=1e-5)
    np.testing.assert_array_equal(series.voxels(2, 5)[..., 0], phantom()[:, :, 2:5])


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.01, 20)] * 3),
    tilt=st.tuples(*[st.floats(-1, 1)] * 2),
    order=st.permutations(range(5)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rotation_spacing_and_tilt(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple[float, ...],
    spacing: tuple[float, float, float],
    tilt: tuple[float, float],
    order: list[int],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    volume = phantom((4, 3, 5))
    affine = affine_of(
        spacing, Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), tuple(spacing[2] * t for t in tilt)
    )
    write_series(folder, volume, affine, order)
    check(DicomSeries(folder), volume, affine)


def test_gantry_tilt_is_the_shear_of_the_affine(tmp_path: Path) -> None:
    shift = 5 * np.tan(np.deg2rad(20))
    affine = affine_of((1, 1, 5), tilt=(0, shift))
    write_series(tmp_path, phantom(), affine)
    series = DicomSeries(tmp_path)
    check(series, phantom(), affine)
    np.testing.assert_allclose(series.grid.affine[:3, 2], [0, -shift, 5], atol=1e-5)


@pytest.mark.parametrize(
    "tags",
    [
        lambda z: {"SeriesDate": "20200101" if z < 5 else "20200102"},
        lambda z: {"SeriesNumber": 1 + z % 2},
        lambda z: {"SliceThickness": "2" if z % 2 else "2.0"},
        lambda z: {"z": z + 0.04 * (z % 2)},
    ],
    ids=["date", "number", "thickness", "rounded positions"],
)
def test_details_do_not_split_a_series(tmp_path: Path, tags: Callable[[int], dict]) -> None:
    write_series(tmp_path, phantom(), tags=tags)
    series = DicomSeries(tmp_path)
    assert series.grid.shape == (12, 10, 8)
    np.testing.assert_array_equal(series.voxels()[..., 0], phantom())


@pytest.mark.parametrize("name", ["{number:02d}.dcm", "IM{number}.IMA", "1.3.46.670589.{number}", "MR.2.25.{number}"])
def test_names_do_not_matter(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, phantom(), name=name)
    (tmp_path / "README").write_text("no DICOM")
    (tmp_path / "._1.dcm").write_bytes(b"left by macOS")
    assert is_dicom_folder(tmp_path)
    check(DicomSeries(tmp_path), phantom(), affine_of())


def test_old_files_without_magic_word(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(), name="IM{number}")
    for path in tmp_path.iterdir():
        file = pydicom.dcmread(path)
        del file.file_meta
        file.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        whole = path.read_bytes()
        path.write_bytes(whole[132:] if whole[128:132] == b"DICM" else whole)
    assert is_dicom_folder(tmp_path)
    check(DicomSeries(tmp_path), phantom(), affine_of())


def test_what_is_no_image_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    localizer = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write_series(
        tmp_path, phantom((30, 30, 2)), affine_of(turn=CORONAL), name="0{number}.dcm", series="2.25.9", **localizer
    )
    save(new_file(tmp_path, BasicTextSRStorage, "2.25.8"), {}, tmp_path / "report.dcm")
    segmentation = new_file(tmp_path, SegmentationStorage, "2.25.7")
    set_pixels(segmentation, phantom().astype(np.uint8).T.copy())
    save(segmentation, {}, tmp_path / "mask.dcm")
    save(new_file(tmp_path, "1.3.12.2.1107.5.9.1", "2.25.6"), {}, tmp_path / "raw.dcm")  # a vendor's private class
    (tmp_path / "empty").touch()
    write_series(tmp_path, phantom(), name="slice{number}.dcm")
    with caplog.at_level(logging.INFO):
        check(DicomSeries(tmp_path), phantom(), affine_of())
    assert "left out 2 localizers, such as 00.dcm" in caplog.text
    assert "passed over 4 files that hold no DICOM image, such as empty" in caplog.text


def test_localizers_alone_are_a_series(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    check(DicomSeries(tmp_path), phantom(), affine_of())


@pytest.mark.parametrize(
    ("stored", "tags", "values", "dtype"),
    [
        (np.int16, {}, lambda v: v, np.int16),
        (np.uint16, {"RescaleSlope": None, "RescaleIntercept": None}, lambda v: v, np.uint16),
        (np.uint16, {"RescaleIntercept": -300, "BitsStored": 12, "HighBit": 11}, lambda v: v - 300, np.int16),
        (np.uint16, {"RescaleIntercept": -300}, lambda v: v - 300, np.int32),
        (np.int16, {"RescaleSlope": -1}, lambda v: -v, np.int32),
        (np.int8, {}, lambda v: v.astype(np.int8), np.int8),
        (np.uint8, {}, lambda v: v.astype(np.uint8), np.uint8),
        (np.int32, {"RescaleIntercept": 7}, lambda v: v + 7, np.float32),
        (np.uint32, {}, lambda v: v, np.uint32),
        (np.int16, {"RescaleSlope": 0.5}, lambda v: v * 0.5, np.float32),
        (np.int16, {"RescaleSlope": 0.013}, lambda v: v * 0.013, np.float64),
        (np.int16, {"RescaleIntercept": 0.25}, lambda v: v + 0.25, np.float32),
        (np.uint16, {"PhotometricInterpretation": "MONOCHROME1"}, lambda v: v, np.float32),
        (
            np.uint16,
            {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11, "RescaleSlope": 2},
            lambda v: 2 * v,
            np.float32,
        ),
        (np.int16, {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": -9}, lambda v: v - 9, np.float32),
    ],
)
def test_values_are_exact(tmp_path: Path, stored: type, tags: dict, values: Callable, dtype: type) -> None:
    write_series(tmp_path, phantom(dtype=stored), **tags)
    found = DicomSeries(tmp_path).voxels()[..., 0]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values(phantom().astype(np.int64).astype(stored).astype(np.float64)))


@pytest.mark.parametrize("multi_frame", [False, True])
def test_slope_and_intercept_count_slice_by_slice(tmp_path: Path, multi_frame: bool) -> None:
    slopes = [1, *(0.01 * (1 + z / 100) for z in range(1, 8))]
    if multi_frame:
        write_multi_frame(tmp_path / "pet.dcm", phantom(), slope=slopes.__getitem__)
    else:
        write_series(tmp_path, phantom(), tags=lambda z: {"RescaleSlope": f"{slopes[z]:.6g}"})
    np.testing.assert_allclose(DicomSeries(tmp_path).voxels()[..., 0], phantom() * np.array(slopes), rtol=1e-6)


def test_a_negative_intercept_after_the_first_slice(tmp_path: Path) -> None:
    """MONAI took the first file's type for all: -100 HU became 65436."""
    stored = phantom(dtype=np.uint16) + 924
    write_series(tmp_path, stored, tags=lambda z: {"RescaleIntercept": -1024 if z else 0})
    expected = stored.astype(int) - np.where(np.arange(8), 1024, 0)
    assert expected.min() < -50
    found = DicomSeries(tmp_path).voxels()[..., 0]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def rewrite(path: Path, change: Callable[[pydicom.FileDataset], object]) -> None:
    file = pydicom.dcmread(path)
    change(file)
    file.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_transfer_syntaxes(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    def change(file: pydicom.FileDataset) -> None:
        if syntax.is_compressed and not syntax.is_deflated:
            file.compress(syntax)
        file.file_meta.TransferSyntaxUID = syntax

    if syntax == JPEGLSLossless:
        pytest.importorskip("jpeg_ls")
    write_series(tmp_path, phantom())
    for path in tmp_path.iterdir():
        rewrite(path, change)
    check(DicomSeries(tmp_path), phantom(), affine_of())
    if not syntax.is_deflated:
        cut(3)(tmp_path)
        with pytest.raises(ValueError, match=r"004\.dcm is cut off"):
            DicomSeries(tmp_path)


@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), [3, 7, 0, 5, 1, 2, 6, 4]], ids=["up", "down", "mixed"])
def test_enhanced_multi_frame(tmp_path: Path, order: list[int]) -> None:
    affine = affine_of(turn=OBLIQUE, tilt=(0.5, 0))
    write_multi_frame(tmp_path / "1.2.3", phantom(), affine, order)
    series = DicomSeries(tmp_path)
    check(series, phantom(), affine)
    np.testing.assert_array_equal(series.voxels(6)[..., 0], phantom()[:, :, 6:])


def write_legacy(path: Path, **tags: object) -> None:
    """All slices in one file without functional groups."""
    write_slice(path, phantom()[:, :, 0].T)
    file = pydicom.dcmread(path)
    set_pixels(file, phantom().T.copy())
    save(file, {"NumberOfFrames": 8, **tags}, path)


@pytest.mark.parametrize("distance", [2.5, -2.5])
def test_multi_frame_without_functional_groups(tmp_path: Path, distance: float) -> None:
    write_legacy(tmp_path / "a.dcm", SpacingBetweenSlices=distance)
    downwards = distance < 0
    affine = affine_of(origin=(-31.5, 12.25, 7.0 + 7 * distance)) if downwards else affine_of()
    check(DicomSeries(tmp_path), phantom()[:, :, ::-1] if downwards else phantom(), affine)


def test_nuclear_medicine_keeps_its_place_with_the_detector(tmp_path: Path) -> None:
    write_legacy(tmp_path / "a.dcm", SpacingBetweenSlices=2.5)
    file = pydicom.dcmread(tmp_path / "a.dcm")
    detector = pydicom.Dataset()
    detector.ImagePositionPatient, detector.ImageOrientationPatient = [-31.5, 12.25, 7], [1, 0, 0, 0, 1, 0]
    moved = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "DetectorInformationSequence": [detector]}
    save(file, moved, tmp_path / "a.dcm")
    check(DicomSeries(tmp_path), phantom(), affine_of())


@pytest.mark.parametrize(("tags", "thickness"), [({}, 2.0), ({"SpacingBetweenSlices": 3}, 3.0)])
def test_one_slice_keeps_its_thickness(tmp_path: Path, tags: dict, thickness: float) -> None:
    write_slice(tmp_path / "a", phantom()[:, :, 2].T, **tags)
    check(DicomSeries(tmp_path), phantom()[:, :, 2:3], affine_of((0.8, 1.2, thickness)))


def cut(count: int, name: str = "004.dcm") -> Callable[[Path], None]:
    """Take bytes off the end of a file."""

    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-count])

    return damage


def slices(order: list[int] | None = None, **tags: Callable[[int], object]) -> Callable[[Path], None]:
    """Write a series with tags that differ from slice to slice; None leaves a tag as it is."""

    def write(folder: Path) -> None:
        def of(z: int) -> dict:
            values = {name: value(z) for name, value in tags.items()}
            return {name: value for name, value in values.items() if value is not None}

        write_series(folder, phantom(), affine_of((1, 1, 2), origin=(0, 0, 0)), order, tags=of)

    return write


def after(write: Callable[[Path], object], damage: Callable[[Path], object]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        write(folder)
        damage(folder)

    return both


def colour(folder: Path) -> None:
    file = pydicom.dcmread(write_slice(folder / "a.dcm", np.zeros((4, 6), np.uint8)))
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    save(file, tags | {"PixelData": bytes(72)}, folder / "a.dcm")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "gap": (
        slices([0, 1, 2, 5, 6, 7]),
        r"series has a gap, slices are missing: 2 between 002.dcm at \(0, 0, 4\) mm and 003.dcm at \(0, 0, 10\) mm, "
        r"where others are 2 mm apart. Fetch",
    ),
    "uneven": (
        slices(z=lambda z: z if z < 4 else 3 + 1.25 * (z - 3)),
        r"series has slices at uneven distances of 2 to 2.5 mm: "
        r"2 mm before and 2.5 mm from 003.dcm at \(0, 0, 6\) mm to 004.dcm",
    ),
    "last slice further": (slices(z=lambda z: z + 0.3 * (z == 7)), r"uneven distances of 2 to 2.6 mm.*to 007.dcm"),
    "sideways": (
        slices(ImagePositionPatient=lambda z: [0, 0.5 * (z == 3), 2 * z]),
        r"straight line with equal steps: 003.dcm at \(0, 0.5, 6\) mm is 0.5 mm off it",
    ),
    "doubled": (
        slices([*range(8), *range(8)]),
        r"holds 8 of its 16 slices at the place of another one, first 000.dcm at \(0, 0, 0\) mm and 008.dcm: several",
    ),
    "one place": (slices(z=lambda z: 0), r"holds 7 of its 8 slices at the place of another"),
    "repeated file": (
        after(slices(), lambda folder: (folder / "copy.dcm").write_bytes((folder / "003.dcm").read_bytes())),
        r"holds 1 of its 9 slices .* first 003.dcm at \(0, 0, 6\) mm and copy.dcm: the same image twice",
    ),
    "orientations": (
        slices(ImageOrientationPatient=lambda z: [1, 0, 0, 0, 1, 0] if z < 4 else [0, 1, 0, 0, 0, -1]),
        r"slices of different orientations: 000.dcm has \[1.0, 0.0, 0.0, 0.0, 1.0, 0.0\] and 004.dcm",
    ),
    "pixel spacings": (
        slices(PixelSpacing=lambda z: [1, 1] if z < 4 else [0.5, 0.5]),
        r"slices of different pixel spacings: 000.dcm has \[1.0, 1.0\] and 004.dcm \[0.5, 0.5\]. Put each",
    ),
    "matrix": (
        after(slices(), lambda folder: write_slice(folder / "008.dcm", np.zeros((9, 12), np.int16), z=8)),
        r"different rows x columns: 10 x 12 \(000.dcm\), 9 x 12 \(008.dcm\)",
    ),
    "series": (
        slices(SeriesInstanceUID=lambda z: f"2.25.{z // 6}", SeriesNumber=lambda z: z // 6),
        r"holds 2 series: number 0 \(thorax\) of 6 files such as 000.dcm; number 1 \(thorax\) of 2 files such as 006",
    ),
    "right angle": (
        slices(ImageOrientationPatient=lambda z: [1, 0, 0, 0.1, 1, 0]),
        r"ImageOrientationPatient of 000.dcm, \[1.0, 0.0, 0.0, 0.1, 1.0, 0.0\], is not made of two unit vectors",
    ),
    "no spacing": (slices(PixelSpacing=lambda z: [0, 0]), r"000.dcm in .*series has the pixel spacing \[0. 0.\]"),
    "slope 0": (slices(RescaleSlope=lambda z: z), r"000.dcm in .*series has the rescale slope 0"),
    "no place": (
        lambda folder: write_series(folder, phantom(), ImagePositionPatient=None),
        r"000.dcm does not say where its voxels lie: ImagePositionPatient is missing. A picture",
    ),
    "no orientation": (
        lambda folder: write_series(folder, phantom(), ImageOrientationPatient=None),
        r"000.dcm does not say where its voxels lie: ImageOrientationPatient is missing",
    ),
    "no pixel spacing": (
        lambda folder: write_series(folder, phantom(), PixelSpacing=None),
        r"000.dcm does not say where its voxels lie: PixelSpacing is missing",
    ),
    "one slice without thickness": (
        lambda folder: write_slice(folder / "a.dcm", phantom()[:, :, 0].T, SliceThickness=None),
        r"holds one slice, a.dcm, whose thickness is unknown",
    ),
    "legacy frames without distance": (
        lambda folder: write_legacy(folder / "a.dcm"),
        r"a.dcm does not say where its voxels lie: SpacingBetweenSlices is missing",
    ),
    "frames and groups": (
        after(
            lambda folder: write_multi_frame(folder / "a.dcm", phantom()),
            lambda folder: rewrite(folder / "a.dcm", lambda file: file.PerFrameFunctionalGroupsSequence.pop()),
        ),
        r"a.dcm has 8 frames but describes 7",
    ),
    "gap between frames": (
        lambda folder: write_multi_frame(folder / "a.dcm", phantom(), moved=lambda z: z + (z > 4)),
        r"slices are missing: 1 between frame 5 of a.dcm at .* and frame 6 of a.dcm",
    ),
    "phases in one file": (
        lambda folder: write_multi_frame(folder / "a.dcm", phantom(), moved=lambda z: z // 2),
        r"holds 4 of its 8 slices .* frame 1 of a.dcm at .* and frame 2 of a.dcm: several volumes",
    ),
    "colour": (colour, r"a.dcm holds 3 values a pixel \(RGB\), no scalar intensities"),
    "mosaic": (slices(ImageType=lambda z: ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), r"000.dcm is a mosaic of slices"),
    "cut in the pixels": (after(slices(), cut(30)), r"004.dcm is cut off"),
    "cut in the header": (after(slices(), cut(300)), r"004.dcm (is cut off|cannot be read)"),
    "cut in the file meta": (
        after(slices(), lambda folder: (folder / "004.dcm").write_bytes((folder / "004.dcm").read_bytes()[:200])),
        r"004.dcm (is cut off|cannot be read)",
    ),
    "cut frames": (after(lambda f: write_multi_frame(f / "a.dcm", phantom()), cut(30, "a.dcm")), r"a.dcm is cut off"),
    "empty": (after(slices(), lambda folder: (folder / "009.dcm").touch()), r"009.dcm (is cut off|cannot be read)"),
    "no DICOM": (
        after(slices(), lambda folder: (folder / "009.dcm").write_text("not found " * 99)),
        r"009.dcm (is cut off|cannot be read)",
    ),
    "no image": (
        lambda folder: save(new_file(folder, BasicTextSRStorage), {}, folder / "a.dcm"),
        r"series holds no DICOM image among its 1 files",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_no_volume_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    write, message = REFUSED[kind]
    write(tmp_path / "series")
    assert is_dicom_folder(tmp_path / "series") == (kind != "no image")
    with pytest.raises(ValueError, match=message):
        DicomSeries(tmp_path / "series")


def test_a_cut_at_any_byte_is_noticed(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", phantom()[:3, :2, 0].T)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.dcm"):
            read_header(path)


def test_folders_without_images(tmp_path: Path) -> None:
    assert not is_dicom_folder(tmp_path / "absent")
    (tmp_path / "notes.txt").write_text("x" * 200)
    write_series(tmp_path / "below", phantom())
    assert not is_dicom_folder(tmp_path)
