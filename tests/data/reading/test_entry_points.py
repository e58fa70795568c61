"""Every kind of scan through every entry point: what is segmented lies where the bright box of the scan lies, in mm.

The network is replaced by a threshold (`AboveMean`), so that a mask must be the box of its scan, voxel by voxel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import Run, make_workflow
from dicom_files import affine_of, write_multi_frame, write_series
from monai.data import MetaTensor
from test_itk_files import write_mha, write_nrrd
from test_nifti import LPS, SHEARED, UPRIGHT, write

import simcvd_bundle
from simcvd_bundle.commands.init import init
from simcvd_bundle.commands.prepare import Prepare
from simcvd_bundle.data.reading import open_volume
from simcvd_bundle.utils.errors import root_cause

SHAPE = (12, 10, 9)
PROBE = {"_target_": "probes.AboveMean"}


def box(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A box without symmetry, another one for each scan."""
    label = np.zeros(shape, np.uint8)
    label[1 + number : 6 + number, 2:5, min(3, shape[2] - 1) : 8] = 1
    return label


@dataclass
class Kind:
    """A way to store scans.

    Attributes:
        write: writes an image or label, given its path without suffix and its array.
        affine: voxel to world of the arrays, RAS, mm.
        shape: of the arrays.
        channels: files a scan.
    """

    write: Callable[[Path, np.ndarray], Any]
    affine: np.ndarray
    shape: tuple[int, int, int] = SHAPE
    channels: int = 1


def nifti(affine: np.ndarray, suffix: str = ".nii.gz", **forms: Any) -> Kind:
    """NIfTI by the forms that ``write`` takes."""
    return Kind(lambda path, array: write(Path(f"{path}{suffix}"), array=array, **forms), affine)


def two_channels(path: Path, array: np.ndarray) -> None:
    """An image as two files whose affines differ by rounding."""
    if path.parent.name == "labels":
        write(Path(f"{path}.nii.gz"), sform=OBLIQUE, array=array)
        return
    write(Path(f"{path}_0000.nii.gz"), sform=OBLIQUE, array=array)
    write(Path(f"{path}_0001.nii.gz"), sform=OBLIQUE.round(4), array=(2 * array).astype(np.float32))


def dicom(affine: np.ndarray, suffix: str = ".46.1", **options: Any) -> Kind:
    """Images as series in folders called by a UID, labels as NIfTI."""

    def store(path: Path, array: np.ndarray) -> None:
        if path.parent.name.startswith("labels"):
            write(Path(f"{path}{suffix}.nii.gz"), sform=affine, array=array)
        elif "frames" in options:
            write_multi_frame(Path(f"{path}{suffix}", "IM1"), array.astype(np.int16), affine, options["frames"])
        else:
            write_series(Path(f"{path}{suffix}"), array.astype(np.int16), affine, **options)

    return Kind(store, affine)


COS, SIN = np.cos(np.deg2rad(7)), np.sin(np.deg2rad(7))
OBLIQUE = np.array([[0.9 * COS, -0.9 * SIN, 0, -12.3], [0.9 * SIN, 0.9 * COS, 0, 7.1], [0, 0, 1.5, 3.3], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, -2.0, 30], [0.8, 0, 0, -5], [0, -0.7, 0, 12], [0, 0, 0, 1.0]])
ACDC = np.diag([-1.3, -1.3, 10.0, 1.0])
LAS = ("space: left-anterior-superior", "space origin: (5,-7,11)")
OF_LAS = np.array([[-0.9, 0.1, 0, -5], [0.1, 0.9, 0, -7], [0, 0, 2, 11], [0, 0, 0, 1.0]])

KINDS = {
    "oblique": nifti(OBLIQUE, sform=OBLIQUE, qform=OBLIQUE),
    "sagittal, upper case": nifti(SAGITTAL, ".NII.GZ", sform=SAGITTAL),
    "pixdim left at 1": nifti(LPS, sform=LPS, sizes=(1, 1, 1), codes=(1, 0)),
    "sform left at 1, raw ACDC": nifti(ACDC, sform=np.diag([-1.0, -1.0, 1.0, 1.0]), qform=ACDC),
    "shear in the sform": nifti(SHEARED, sform=SHEARED, qform=UPRIGHT, sizes=(1, 1, 5)),
    "qform only": nifti(LPS, ".nii", qform=LPS),
    "aligned to an atlas": nifti(OBLIQUE, sform=OBLIQUE, qform=LPS @ np.diag([0.9, 0.9, 0.75, 1]), codes=(4, 1)),
    "one slice": Kind(
        lambda path, array: write(Path(f"{path}.nii.gz"), sform=OBLIQUE, array=array), OBLIQUE, (12, 10, 1)
    ),
    "channels that differ by rounding": Kind(two_channels, OBLIQUE, channels=2),
    "int64 NRRD": Kind(
        lambda path, array: write_nrrd(Path(f"{path}.nrrd"), array.astype(np.int64), fields=LAS), OF_LAS
    ),
    "int8 MetaImage, .nii in its name": Kind(
        lambda path, array: write_mha(Path(f"{path}.nii.mha"), array.astype(np.int8), "MET_CHAR",
                                      "ElementSpacing = 1 1 2"),
        np.diag([-1.0, -1.0, 2.0, 1.0]),
    ),
    "DICOM": dicom(affine_of()),
    "DICOM, sagittal": dicom(affine_of(turn=np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0.0]]))),
    "DICOM, gantry tilt": dicom(affine_of(tilt=(0, 0.9))),
    "DICOM, split by date and thickness": dicom(
        affine_of(), name="MR.1.3.46.{number}", order=[5, 0, 7, 2, 8, 1, 6, 3, 4],
        tags=lambda z: {"SeriesDate": f"2020010{1 + z // 5}", "SliceThickness": "2" if z % 2 else "2.0"},
    ),
    "DICOM, enhanced multi-frame": dicom(affine_of(), frames=[3, 0, 8, 1, 7, 2, 6, 4, 5]),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Kind, Path]:
    """Three scans of a kind in ``images``, labels of two of them in ``labels``."""
    kind = KINDS[request.param]
    for number in range(3):
        for folder in ("images", "labels")[: 2 if number < 2 else 1]:
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            label = box(number, kind.shape)
            kind.write(tmp_path / "data" / folder / f"s{number}", label if folder == "labels" else 20 + 90 * label)
    return kind, tmp_path / "data"


def places(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Where the voxels of a mask lie, mm, sorted."""
    points = (np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]).round(2)
    return points[np.lexsort(points.T)]


def settings_of(kind: Kind) -> dict[str, Any]:
    """Ids that every entry point needs for a kind."""
    return {"in_channels": kind.channels, "class_names": {"1": "class 1"}}


def test_masks_lie_where_their_scans_do(run_bundle: Run, stored: tuple[Kind, Path], tmp_path: Path) -> None:
    kind, data = stored
    run_bundle(
        "inference.json", workflow_type="infer", dataset_dir=str(data / "images"), output_dir=str(tmp_path / "masks"),
        inferer=PROBE, load="$lambda: None", **settings_of(kind),
    )  # fmt: skip
    masks = sorted((tmp_path / "masks").glob("*.nii.gz"))
    assert len(masks) == 3
    images = sorted((data / "images").iterdir())[:: kind.channels]
    for number, (file, image) in enumerate(zip(masks, images, strict=True)):
        mask = open_volume(file)
        assert mask.grid.shape == kind.shape
        np.testing.assert_array_equal(mask.voxels()[..., 0], box(number, kind.shape))
        np.testing.assert_allclose(
            places(mask.voxels()[..., 0], mask.grid.affine), places(box(number, kind.shape), kind.affine), atol=0.02
        )
        if image.name.lower().endswith((".nii", ".nii.gz")):
            header, of_scan = (nib.load(path).header for path in (file, image))
            for field in ("qform_code", "sform_code", "srow_x", "srow_z", "quatern_c", "qoffset_y", "xyzt_units"):
                np.testing.assert_array_equal(header[field], of_scan[field])


def test_python_gives_the_same(stored: tuple[Kind, Path], tmp_path: Path) -> None:
    kind, data = stored
    model = simcvd_bundle.Segmenter(
        "none", inferer={**PROBE, "with_sdm": True}, load="$lambda: None", patch_size=[16, 16, 16],
        **{**settings_of(kind), "network_def::base_channels": 2},
    )  # fmt: skip
    files: list[Any] = sorted((data / "images").iterdir())
    if kind.channels > 1:
        files = [files[number : number + kind.channels] for number in range(0, len(files), kind.channels)]
    mask = model.predict(files[1]).mask
    assert isinstance(mask, MetaTensor)
    np.testing.assert_array_equal(mask.numpy()[0], box(1, kind.shape))
    np.testing.assert_allclose(mask.affine, kind.affine, atol=1e-5)


def test_training_and_evaluation_see_label_on_image(
    run_bundle: Run, stored: tuple[Kind, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the files that ``init`` writes, which count voxels in the same way."""
    kind, data = stored
    init(str(data), in_channels=kind.channels if kind.channels > 1 else None)
    size = " x ".join(f"{length:.3g}" for length in np.linalg.norm(kind.affine[:3, :3], axis=0))
    assert f"{size} (3) mm" in capsys.readouterr().out
    overlay = str(data / "data_mine.json")
    workflow = make_workflow(
        "train.json", overlay, dataset_dir=data, folder=tmp_path, num_labeled=None, orientation=None, spacing=None
    )
    workflow.parser.get_parsed_content("train::dataset")
    cached = [torch.load(file, weights_only=True) for file in sorted((tmp_path / "cache").glob("*.pt"))]
    labeled = [item for item in cached if "label" in item]
    assert (len(cached), len(labeled)) == (3, 2)
    for item in labeled:
        assert torch.equal(item["label"][0] > 0, item["image"][0] > 0)
        assert item["label"].sum() == box(0, kind.shape).sum()
    evaluation = run_bundle(
        "train.json", overlay, "evaluate.json", output_dir=str(tmp_path / "eval"), dataset_dir=str(data),
        eval_section="labeled", load="$lambda: None", num_labeled=None, **{"validate::inferer": PROBE},
    )  # fmt: skip
    assert evaluation.parser.get_parsed_content("validate::evaluator").state.metrics["val_mean_dice"] == 1


@pytest.mark.parametrize("name", ["oblique", "sform left at 1, raw ACDC", "shear in the sform", "int64 NRRD",
                                  "DICOM, gantry tilt", "DICOM, enhanced multi-frame"])  # fmt: skip
def test_prepared_data_lie_where_their_scans_do(tmp_path: Path, name: str) -> None:
    kind, items = KINDS[name], []
    for number in range(2):
        for folder in ("imagesTr", "labelsTr"):
            (tmp_path / folder).mkdir(exist_ok=True)
            kind.write(tmp_path / folder / f"s{number}", box(number) if folder == "labelsTr" else 20 + 90 * box(number))
        image, label = (next((tmp_path / folder).glob(f"s{number}*")) for folder in ("imagesTr", "labelsTr"))
        items.append({"image": f"imagesTr/{image.name}", "label": f"labelsTr/{label.name}"})
    content = {"name": "x", "labels": {"0": "background", "1": "box"}, "modality": {"0": "MRI"}, "training": items}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    Prepare().msd(str(tmp_path), str(tmp_path / "out"))
    for number in range(2):
        for folder in ("images", "labels"):
            volume = open_volume(next((tmp_path / "out" / folder).glob(f"s{number}*")))
            found = places(volume.voxels()[..., 0] > 0, volume.grid.affine)
            np.testing.assert_allclose(found, places(box(number), kind.affine), atol=0.02)


# what is refused, by whom


def gap(path: Path, array: np.ndarray) -> Path:
    """A series without its fourth slice."""
    return write_series(path, array.astype(np.int16), affine_of(), order=[0, 1, 2, 4, 5, 6, 7, 8])


def two_series(path: Path, array: np.ndarray) -> Path:
    """Two series in one folder."""
    return write_series(path, array.astype(np.int16), tags=lambda z: {"series": f"2.25.{z // 5}"})


def truncated(path: Path, array: np.ndarray) -> Path:
    """A series one file of which is cut off."""
    file = sorted(write_series(path, array.astype(np.int16)).iterdir())[4]
    file.write_bytes(file.read_bytes()[:-30])
    return path


COLOURS = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
REFUSED: dict[str, tuple[Callable[[Path, np.ndarray], Path], str]] = {
    "contradictory header": (
        lambda path, array: write(Path(f"{path}.nii.gz"), sform=np.diag([2.0, 2, 2, 1]), qform=LPS, array=array),
        "the header contradicts itself",
    ),
    "colours": (
        lambda path, array: write(Path(f"{path}.nii.gz"), sform=LPS, array=np.zeros(SHAPE, COLOURS)),
        "holds colours, not one number a voxel",
    ),
    "time series of channels": (
        lambda path, array: write(Path(f"{path}.nii.gz"), sform=LPS, array=np.zeros((*SHAPE, 2, 3), np.int16)),
        "three axes are expected",
    ),
    "complex NRRD": (
        lambda path, array: write_nrrd(
            Path(f"{path}.nrrd"), np.zeros((2, *SHAPE), np.float32), "complex domain domain domain",
            "none (1,0,0) (0,1,0) (0,0,1)",
        ),
        "holds complex voxels",
    ),
    "DICOM, gap": (gap, "has a gap, slices are missing"),
    "DICOM, two series": (two_series, "holds 2 series"),
    "DICOM, truncated": (truncated, "is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_so_everywhere(run_bundle: Run, tmp_path: Path, name: str) -> None:
    """By its name; in a batch the others are segmented."""
    store, message = REFUSED[name]
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        write(tmp_path / "data" / folder / "good.nii.gz", sform=LPS, array=(1 if folder == "labels" else 90) * box(0))
    bad = store(tmp_path / "data" / "images" / "bad", 90 * box(1))
    assert bad.exists()
    said = rf"(?s){re.escape(str(bad))}.*{message}"
    with pytest.raises(ValueError, match=said):
        init(str(tmp_path / "data"))
    with pytest.raises(RuntimeError) as error:
        run_bundle(
            "inference.json", workflow_type="infer", dataset_dir=str(tmp_path / "data" / "images"),
            output_dir=str(tmp_path / "masks"), inferer=PROBE, load="$lambda: None",
        )  # fmt: skip
    assert re.search(said, str(root_cause(error.value)))
    assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == ["good_seg.nii.gz"]
    items = [{"image": str(tmp_path / "data" / "images" / "good.nii.gz"),
              "label": str(tmp_path / "data" / "labels" / "good.nii.gz")}, {"image": str(bad)}]  # fmt: skip
    data: dict[str, Any] = {"train::dataset::data": items, "validate::dataset::data": []}
    training = make_workflow("train.json", dataset_dir=tmp_path, folder=tmp_path, **data)
    with pytest.raises(RuntimeError) as error:
        training.parser.get_parsed_content("train::dataset")
    assert re.search(said, str(root_cause(error.value)))
    with pytest.raises(ValueError, match=said):
        simcvd_bundle.Segmenter("none", inferer=PROBE, load="$lambda: None").predict(bad)
