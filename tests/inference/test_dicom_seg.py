"""DICOM segmentations of series, opened again by highdicom and compared with the mask, voxel by voxel."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from conftest import INFERENCE_IDS, TINY, Run
from dicom_files import LPS, affine_of, phantom, write_multi_frame, write_series
from monai.data.meta_tensor import MetaTensor
from scipy.spatial.transform import Rotation

import simcvd_bundle
from simcvd_bundle.data.reading.dicom import DicomSeries
from simcvd_bundle.inference.batch import Results
from simcvd_bundle.inference.dicom_seg import SaveDicomSegd

hd = pytest.importorskip("highdicom")

NAMES = {
    "1": "left atrium",
    "2": "a name of more than sixty-four characters, which is what DICOM has room for in a label",
}
OBLIQUE = affine_of(turn=Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix())
MIXED = [3, 7, 0, 5, 1, 2, 6, 4]
PARTS = {"a.dcm": range(4), "b.dcm": range(4, 8)}


def read_back(path: Path, affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Class indices of a segmentation on the grid, every frame put to the slice at its own position."""
    file = hd.seg.segread(path)
    shared = file.SharedFunctionalGroupsSequence[0]
    x, y = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    rows, columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    lps = LPS @ affine
    np.testing.assert_allclose(np.stack([x * columns, y * rows], 1), lps[:3, :2], atol=1e-5)
    distance = float(shared.PixelMeasuresSequence[0].SpacingBetweenSlices)
    assert distance == pytest.approx(lps[:3, 2] @ np.cross(x, y), abs=1e-5)
    labels = np.zeros(shape, np.uint8)
    places = set()
    for group, pixels in zip(file.PerFrameFunctionalGroupsSequence, file.pixel_array, strict=True):
        position = np.array([*map(float, group.PlanePositionSequence[0].ImagePositionPatient), 1])
        index = np.linalg.inv(lps) @ position
        np.testing.assert_allclose(index, index.round(), atol=1e-4)
        assert index.round()[[0, 1]].tolist() == [0, 0]
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        places.add((number, round(index[2])))
        labels[:, :, round(index[2])][pixels.T == 1] = number
    assert places == {(number, z) for number in (1, 2) for z in range(shape[2])}
    return labels


def save(folder: Path, output: Path, mask: np.ndarray, affine: np.ndarray) -> None:
    tensor = MetaTensor(torch.from_numpy(mask)[None], affine=affine, meta={"filename_or_obj": str(folder)})
    results = Results()
    SaveDicomSegd(results, "pred", str(output), NAMES)({"image": tensor, "pred": tensor})
    results.finish()


def write_one_file(folder: Path, affine: np.ndarray) -> None:
    write_multi_frame(folder / "a.dcm", phantom(), affine, MIXED)


def write_own_groups(folder: Path, affine: np.ndarray) -> None:
    """One file whose frames state orientation and spacing one by one."""
    write_one_file(folder, affine)
    file = pydicom.dcmread(folder / "a.dcm")
    shared = file.SharedFunctionalGroupsSequence[0]
    for group in file.PerFrameFunctionalGroupsSequence:
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
        group.PixelMeasuresSequence = shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    file.save_as(folder / "a.dcm")


def slices(**tags: Any) -> Callable[[Path, np.ndarray], object]:
    return lambda folder, affine: write_series(folder, phantom(), affine, MIXED, **tags)


KINDS: dict[str, tuple[Callable[[Path, np.ndarray], object], np.ndarray]] = {
    "axial": (slices(), affine_of()),
    "oblique": (slices(), OBLIQUE),
    "tilted": (slices(), affine_of((1, 1, 5), tilt=(0, 1.82))),
    "one file": (write_one_file, OBLIQUE),
    "anonymised": (
        slices(PatientBirthDate=None, PatientSex=None, StudyTime=None, StudyID=None, SliceThickness=None), affine_of(),
    ),
    "rounded": (
        slices(
            tags=lambda z: {"ImageOrientationPatient": [1, 1e-6 * z, 0, 0, 1, 0], "PixelSpacing": [1.2, 0.8 + 1e-6 * z]}
        ),
        affine_of(),
    ),
    "unequal functional groups": (write_own_groups, affine_of()),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [False, True])
def test_every_voxel_and_its_place_come_back(tmp_path: Path, kind: str, empty: bool) -> None:
    write, affine = KINDS[kind]
    write(tmp_path / "1.2.840.5", affine)
    mask = (phantom() == 200) + 2 * (phantom() == 300).astype(np.uint8) * (not empty)
    mask = mask.astype(np.uint8) * (not empty)
    save(tmp_path / "1.2.840.5", tmp_path / "out", mask, affine)
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "1.2.840.5_seg.dcm"
    np.testing.assert_array_equal(read_back(path, affine, mask.shape), mask)
    if kind != "tilted":  # of which highdicom makes no volume
        volume = hd.seg.segread(path).get_volume(combine_segments=True)
        np.testing.assert_array_equal(volume.array.T[:, :, ::-1], mask)


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    write_series(tmp_path / "series", phantom(), series="2.25.5")
    save(tmp_path / "series", tmp_path, (phantom() == 200).astype(np.uint8), affine_of())
    file = hd.seg.segread(tmp_path / "series_seg.dcm")
    assert [segment.SegmentLabel for segment in file.SegmentSequence] == [NAMES["1"], NAMES["2"][:64]]
    algorithm = file.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("SimCVD bundle", simcvd_bundle.__version__)
    assert (file.Modality, file.StudyInstanceUID, file.FrameOfReferenceUID) == ("SEG", "2.25.70", "2.25.71")
    assert file.ReferencedSeriesSequence[0].SeriesInstanceUID == "2.25.5"
    frames = DicomSeries(tmp_path / "series").frames
    sources = [uid for *_, uid in file.get_source_image_uids()]
    assert sorted(sources) == sorted(frame.uid for frame in frames)


@pytest.mark.parametrize(
    ("write", "affine", "message"),
    [
        (
            lambda folder, affine: [
                write_multi_frame(folder / n, phantom(), affine, part) for n, part in PARTS.items()
            ],
            affine_of(),
            r"series can be written: it needs one file for each slice, or a single enhanced multi-frame file",
        ),
        (slices(FrameOfReferenceUID=None), affine_of(), r"00\d.dcm has no FrameOfReferenceUID"),
        (slices(), affine_of((1, 1, 1)), r"the series lies elsewhere: corners up to"),
    ],
)
def test_what_cannot_be_written_fails_its_case(
    tmp_path: Path, write: Callable[[Path, np.ndarray], object], affine: np.ndarray, message: str
) -> None:
    write(tmp_path / "series", affine_of())
    with pytest.raises(RuntimeError, match=f"(?s)1 cases failed.*{message}"):
        save(tmp_path / "series", tmp_path / "out", np.ones((12, 10, 8), np.uint8), affine)
    assert not list((tmp_path / "out").glob("*"))


def test_a_missing_highdicom_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r"save_dicom_seg needs highdicom .*: pip install 'simcvd-bundle\[seg\]'"):
        SaveDicomSegd(Results(), "pred", str(tmp_path), NAMES)


def test_inference_over_both_kinds(
    run_bundle: Run, trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.RandomState(1)
    array = (100 * random.rand(20, 18, 9)).astype(np.int16)
    scans = tmp_path / "scans"
    write_series(scans / "series", array, OBLIQUE)
    for name in "ab":
        nib.save(nib.Nifti1Image(array, OBLIQUE), scans / f"{name}.nii.gz")
    settings = {name: TINY[name] for name in INFERENCE_IDS}
    with caplog.at_level(logging.WARNING):
        run_bundle("inference.json", workflow_type="infer", weights=str(trained_run / "models" / "model.pt"),
                   dataset_dir=str(scans), output_dir=str(tmp_path / "out"), save_dicom_seg=True,
                   class_names={"1": "ball"}, **{k: v for k, v in settings.items() if k != "bundle_root"})  # fmt: skip
    names = {path.name for path in (tmp_path / "out").glob("*_seg*")}
    assert names == {"a_seg.nii.gz", "b_seg.nii.gz", "series_seg.nii.gz", "series_seg.dcm"}
    assert caplog.text.count("is no DICOM series") == 1
    mask = np.asarray(nib.load(tmp_path / "out" / "series_seg.nii.gz").dataobj)
    volume = hd.seg.segread(tmp_path / "out" / "series_seg.dcm").get_volume(combine_segments=True)
    np.testing.assert_array_equal(volume.array.T[:, :, ::-1], mask)
