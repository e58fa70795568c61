"""Check that MONAI Deploy gives the mask of inference.json, on a NIfTI file and on a DICOM series of the same phantom.

Runs docs/deploy/app.py with a real MONAI Deploy App SDK: its environment is described in docs/deploy.md.

Without weights of yours they are those of 20 iterations on phantoms.

    python tools/deploy_check.py [model.pt]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from highdicom.seg import segread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from simcvd_bundle.data.phantoms import phantom_dataset  # noqa: E402

SPACING_MM = (0.8, 0.9, 2.0)


def call(*arguments: str | Path) -> None:
    """Run Python in the bundle's folder."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def bundle(*arguments: str | Path) -> None:
    """Run a command of MONAI's bundles."""
    call("-m", "monai.bundle", *arguments)


def write_series(array: np.ndarray, folder: Path) -> None:
    """Write ``array`` (x, y, z) as a DICOM series of axial slices, with intensities between 0 and 1000."""
    folder.mkdir(parents=True)
    pixels = np.round(1000 * (array - array.min()) / np.ptp(array)).astype(np.int16)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for z in range(pixels.shape[2]):
        slice_ = pydicom.Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.SOPClassUID = slice_.file_meta.MediaStorageSOPClassUID = CTImageStorage
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate, slice_.PatientSex = "Phantom", "1", "", ""
        slice_.StudyID, slice_.StudyDate, slice_.StudyTime, slice_.AccessionNumber = "1", "20260101", "120000", ""
        slice_.ReferringPhysicianName, slice_.Modality, slice_.Manufacturer = "", "CT", ""
        slice_.SeriesNumber, slice_.InstanceNumber, slice_.PositionReferenceIndicator = 1, z + 1, ""
        slice_.SeriesDescription, slice_.ImageType = "phantom", ["ORIGINAL", "PRIMARY", "AXIAL"]
        slice_.ImagePositionPatient = [-20.0, 30.0, -40.0 + SPACING_MM[2] * z]
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.PixelSpacing, slice_.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], SPACING_MM[2]
        slice_.Rows, slice_.Columns = pixels.shape[1], pixels.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleIntercept, slice_.RescaleSlope = 0, 1
        slice_.PixelData = np.ascontiguousarray(pixels[:, :, z].T).tobytes()
        slice_.save_as(folder / f"{z:03d}.dcm", enforce_file_format=True)


def read_segmentation(path: Path, series: Path) -> np.ndarray:
    """Mask ``(x, y, z)`` of a DICOM segmentation, in the order of the slices of its series."""
    instances = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in sorted(series.iterdir())]
    frames = segread(path).get_pixels_by_source_instance(instances, combine_segments=True)
    return np.moveaxis(frames, 0, 2).swapaxes(0, 1)


def main() -> None:
    """Segment by both ways and compare."""
    work = Path(tempfile.mkdtemp(prefix="deploy_check_"))
    phantom_dataset(str(work / "phantoms"))
    if len(sys.argv) > 1:
        weights = Path(sys.argv[1]).resolve()
    else:
        weights = work / "models" / "model.pt"
        bundle("run", "training", "--config_file", "configs/train.json", "--iterations", "20", "--dataset_dir",
               work / "phantoms", "--output_dir", work / "run", "--ckpt_dir", work / "models")  # fmt: skip
    bundle("ckpt_export", "network_def", "--filepath", work / "model.ts", "--ckpt_file", weights, "--meta_file",
           "configs/metadata.json", "--config_file", "['configs/inference.json','configs/deploy.json']")  # fmt: skip
    image = nib.load(work / "phantoms" / "images" / "test_00.nii.gz")
    array = np.asarray(image.dataobj)[:60, :52, :41]  # no side like another, none a multiple of 16
    affine = np.diag([-0.8, 0.9, 2.0, 1.0])
    affine[:3, 3] = [10, -20, 30]
    (work / "nifti").mkdir()
    nib.save(nib.Nifti1Image(array, affine), work / "nifti" / "scan.nii.gz")
    write_series(array, work / "dicom" / "series")
    for kind in ("nifti", "dicom"):
        bundle("run", "--config_file", "configs/inference.json", "--dataset_dir", work / kind, "--weights", weights,
               "--output_dir", work / f"{kind}_bundle", "--precision", "float32")  # fmt: skip
        call("docs/deploy/app.py", "-i", work / kind, "-o", work / f"{kind}_deploy", "-m", work / "model.ts")
        (ours,), (theirs,) = ([*(work / f"{kind}_{way}").rglob("*.*")] for way in ("bundle", "deploy"))
        expected = np.asarray(nib.load(ours).dataobj)
        assert 0 < expected.mean() < 1
        if kind == "nifti":
            np.testing.assert_allclose(nib.load(theirs).affine, nib.load(ours).affine, atol=1e-5)
            mask = np.asarray(nib.load(theirs).dataobj)
        else:
            mask = read_segmentation(theirs, work / "dicom" / "series")
        np.testing.assert_array_equal(mask, expected)
        print(f"PASS {kind}: masks equal, {int(mask.sum())} of {mask.size} voxels: {theirs}", flush=True)


if __name__ == "__main__":
    main()
