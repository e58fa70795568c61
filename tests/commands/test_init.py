"""From a folder of images and labels to a training: what is found, refused, chosen and written."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, write_series
from monai.bundle import ConfigWorkflow

from simcvd_bundle.commands.init import init, rules
from simcvd_bundle.commands.init.inspecting import read_intensities
from simcvd_bundle.commands.report import report
from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.reading import open_volume

AFFINE = np.diag([0.8, 0.8, 5.0, 1.0])


def save(path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if array is None:
        array = np.random.default_rng(len(path.name)).normal(size=(20, 18, 8))
    nib.save(nib.Nifti1Image(array, affine), path)


def mask(*values: int, shape: tuple[int, ...] = (20, 18, 8), dtype: Any = np.uint8) -> np.ndarray:
    """A bar of three voxels for each value."""
    label = np.zeros(shape, dtype)
    for number, value in enumerate(values):
        label[3 * number : 3 * number + 3, 2:6, 2:5] = value
    return label


# rules


@pytest.mark.parametrize(
    ("codes", "spacing", "target"),
    [
        (["RAS"] * 3, (1, 1, 5), None),
        (["RAS", "LPS", "LPS"], (1, 1, 1), "LPS"),
        (["SRA"] * 2, (5, 1, 1), "RAS"),
        (["ASR"] * 2, (1, 1, 5), None),
    ],
)
def test_orientation_is_common_with_thick_slices_last(codes: list[str], spacing: Any, target: str | None) -> None:
    assert rules.choose_orientation(codes, [spacing] * len(codes))[0] == target


def test_spacing_is_the_median_unless_all_are_equal() -> None:
    assert rules.choose_spacing([(0.7, 0.7, 2.0), (0.71, 0.7, 2.0)])[0] is None
    assert rules.choose_spacing([(0.7, 0.7, 2.0), (0.8, 0.8, 2.0), (0.9, 0.9, 2.5)])[0] == [0.8, 0.8, 2.0]
    thick = [(0.8, 0.8, z) for z in (3.0, 5.0, 5.0, 5.0, 8.0)]
    assert rules.choose_spacing(thick)[0] == pytest.approx([0.8, 0.8, 3.8])  # the 10th percentile
    assert "headers do not know" in rules.choose_spacing([(1.0, 1.0, 1.0)])[1]


def test_isotropic_patch_keeps_the_published_network() -> None:
    strides, kernels = rules.choose_network([64, 64, 64], (1.0, 1.0, 1.0))
    assert strides == [[2, 2, 2]] * 4
    assert kernels == [[3, 3, 3]] * 5


def test_thick_slices_as_in_nnunet_for_acdc() -> None:
    """Halved along z once, and convolved along z, from where the plane's voxels are 6 mm."""
    strides, kernels = rules.choose_network([160, 160, 10], (1.5, 1.5, 10.0))
    assert strides == [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]]
    assert kernels == [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]]


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((512, 512, 100), (0.8, 0.8, 5.0), [144, 144, 24]),
        ((1000, 1000, 1000), (0.5, 0.5, 0.5), [80, 80, 80]),
        ((40, 30, 5), (1.0, 1.0, 8.0), [40, 40, 5]),
        ((150, 150, 88), (1.0, 1.0, 1.0), [80, 80, 80]),
    ],
)
def test_patch_fits_and_divides(shape: Any, spacing: Any, expected: list[int]) -> None:
    patch = rules.choose_patch(shape, spacing, 80**3)
    assert np.prod(patch) <= 80**3
    strides, _ = rules.choose_network(patch, spacing)
    assert all(size % np.prod([s[axis] for s in strides]) == 0 for axis, size in enumerate(patch))
    assert patch == expected


def test_normalisation_by_intensity_range() -> None:
    random = np.random.default_rng(0)
    ct = np.concatenate([np.full(500, -1000), random.normal(50, 20, 500).round()])
    content, _ = rules.choose_normalization([ct], ct[500:], 1)
    assert content is not None
    assert content["_target_"] == "ScaleIntensityRanged"
    assert (content["a_min"], content["a_max"]) == pytest.approx(np.percentile(ct[500:], [0.5, 99.5]), abs=0.1)
    zero = (50 - content["a_min"]) / (content["a_max"] - content["a_min"])  # the mean becomes 0
    assert content["b_min"] + zero * (content["b_max"] - content["b_min"]) == pytest.approx(0, abs=0.1)
    mri = random.gamma(2, 100, 1000)
    assert rules.choose_normalization([mri], mri, 1)[0] is None
    stripped = np.where(random.random(1000) < 0.5, 0, mri)
    assert rules.choose_normalization([stripped], mri, 1)[0]["nonzero"] is True  # type: ignore[index]


def test_classes_of_one_piece_in_every_label_are_listed_by_their_index() -> None:
    classes, why = rules.choose_one_piece([{20: 1.0, 500: 0.94}, {20: 0.95, 600: 1.0}], [20, 500, 600])
    assert classes == [1, 3]
    assert why.startswith("one piece in every label: 20, 600; masks keep the largest")
    assert rules.choose_one_piece([{20: 0.5}], [20]) == (
        [],
        "no class is one piece in every label: masks keep all pieces",
    )


# inspecting


def test_the_geometry_of_a_series(tmp_path: Path) -> None:
    write_series(tmp_path / "dicom", np.arange(6 * 5 * 4).reshape(6, 5, 4), (0.8, 0.8, 5.0))
    grid = open_volume(tmp_path / "dicom").grid
    assert grid.shape == (6, 5, 4)
    assert grid.spacing == pytest.approx((0.8, 0.8, 5.0))
    assert grid.axcodes == "LPS"


def test_label_values_and_foreground_are_read_slab_by_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = mask(2, 7, dtype=np.int16)
    label[12:, 0, 0] = -3
    label[0, 0, :] = 400
    label[19, 17, 7] = 400
    save(tmp_path / "label.nii.gz", label.astype(np.float32))
    save(tmp_path / "image.nii.gz", 100.0 * label)
    monkeypatch.setattr("simcvd_bundle.commands.init.inspecting.SLAB_VOXELS", 20 * 18 * 3)
    result = read_intensities(open_volume(tmp_path / "image.nii.gz"), open_volume(tmp_path / "label.nii.gz"))
    assert result.values == {0: 20 * 18 * 8 - 89, 2: 36, 7: 36, -3: 8, 400: 9}
    assert sorted(set(result.foreground.tolist())) == [-300, 200, 700, 40000]
    assert result.pieces == pytest.approx({2: 1.0, 7: 1.0, -3: 1.0, 400: 8 / 9})


def test_a_large_volume_is_sampled_in_bounded_memory(tmp_path: Path) -> None:
    """1000 x 1000 x 1000 voxels, of which 16 slices are read; the file is sparse."""
    path = tmp_path / "large.nii"
    header = nib.Nifti1Header()
    header.set_data_shape((1000, 1000, 1000))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        file.truncate(352 + 1000**3)
    tracemalloc.start()
    result = read_intensities(open_volume(path), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(result.sample) >= 10_000
    assert peak < 100e6


# the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five scans, four of them labelled with the values 2 and 5."""
    root = tmp_path / "my data"
    for name in "abcde":
        save(root / "images" / f"{name}.nii.gz")
        if name != "e":
            save(root / "labels" / f"{name}.nii.gz", mask(2, 5, dtype=np.float32))
    return root


def test_init_writes_what_load_datalist_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.nii.gz")}
    init(str(folder), class_names=["liver", "tumour"], test=1)
    assert {path: path.read_bytes() for path in folder.rglob("*.nii.gz")} == before
    training = load_datalist(str(folder), "training")
    assert len(load_datalist(str(folder), "test", require_labels=True)) == 1
    assert [Path(item["image"]).name for item in training if "label" not in item] == ["e.nii.gz"]
    assert len(training) == 4
    overlay = json.loads((folder / "data_mine.json").read_text())
    assert overlay["label_values"] == {"2": 1, "5": 2}
    assert overlay["class_names"] == {"1": "liver", "2": "tumour"}
    assert overlay["one_piece_classes"] == [1, 2]
    assert overlay["patch_size"] == [20, 20, 8]
    base = json.loads((ROOT / "configs" / "train.json").read_text())
    assert set(overlay) <= set(base)
    printed = capsys.readouterr().out
    for text in ("0.8 x 0.8 x 5 (5) mm", "2 -> 1, 5 -> 2", "z-scored", "4 training, 1 test", "subject of its own"):
        assert text in printed


def test_spacing_asked_for_is_that_of_the_overlay(folder: Path) -> None:
    init(str(folder), spacing=[1.6, 1.6, 5])
    overlay = json.loads((folder / "data_mine.json").read_text())
    assert overlay["spacing"] == [1.6, 1.6, 5.0]
    assert overlay["patch_size"] == [10, 10, 8]
    with pytest.raises(ValueError, match="--spacing must be three lengths"):
        init(str(folder), spacing=[1, 0, 1], overwrite=True)


def test_init_overwrites_nothing_unless_told(folder: Path) -> None:
    init(str(folder))
    written = (folder / "dataset.json").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match="--overwrite True replaces it"):
        init(str(folder))
    assert (folder / "dataset.json").stat().st_mtime_ns == written
    init(str(folder), overwrite=True)
    elsewhere = folder.parent / "elsewhere"
    init(str(folder), output_dir=str(elsewhere), name="two")
    overlay = json.loads((elsewhere / "data_two.json").read_text())
    assert len(load_datalist(overlay["dataset_dir"], "training", overlay["datalist"])) == 5


def test_scans_of_a_subject_stay_together(tmp_path: Path) -> None:
    for subject in range(4):
        for frame in range(2):
            save(tmp_path / "images" / f"patient{subject}_frame{frame}.nii")
            if (subject, frame) != (3, 1):
                save(tmp_path / "labels" / f"patient{subject}_frame{frame}.nii", mask(1))
    for seed in range(5):
        init(str(tmp_path), subject=r"patient\d", test=2, seed=seed, overwrite=True)
        content = json.loads((tmp_path / "dataset.json").read_text())
        test, training = ({re.findall(r"patient\d", i["image"])[0] for i in content[s]} for s in ("test", "training"))
        assert len(test) == len(training) == 2
        assert not test & training
    with pytest.raises(ValueError, match="num_labeled 3 would split the scans of subject 'patient1'"):
        init(str(tmp_path), subject=r"patient\d", num_labeled=3, overwrite=True)
    with pytest.raises(ValueError, match="leave none of 4 labelled subjects"):
        init(str(tmp_path), subject=r"patient\d", test=4, overwrite=True)
    with pytest.raises(ValueError, match=r"'case' is not found in images/patient0_frame0\.nii"):
        init(str(tmp_path), subject="case", overwrite=True)


def test_empty_labels_are_taken_as_missing_unless_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder / "labels" / "a.nii.gz", mask())
    init(str(folder))
    assert "1 labels are empty" in capsys.readouterr().out
    assert sum("label" in item for item in load_datalist(str(folder), "training")) == 3
    init(str(folder), keep_empty_labels=True, overwrite=True)
    assert sum("label" in item for item in load_datalist(str(folder), "training")) == 4
    for name in "bcd":
        save(folder / "labels" / f"{name}.nii.gz", mask())
    with pytest.raises(ValueError, match=r"All 4 labels of .* are empty"):
        init(str(folder), keep_empty_labels=True, overwrite=True)


def test_multichannel_and_time_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        save(tmp_path / "images" / f"{name}.nii.gz", np.random.default_rng(0).normal(size=(20, 18, 8, 3)))
        save(tmp_path / "labels" / f"{name}.nii.gz", mask(1))
    with pytest.raises(
        ValueError, match=r"a.nii.gz holds 3 volumes. If they are channels: --in_channels 3. If it is a"
    ):
        init(str(tmp_path))
    assert not (tmp_path / "dataset.json").exists()
    init(str(tmp_path), in_channels=3)
    assert json.loads((tmp_path / "data_mine.json").read_text())["in_channels"] == 3


def broken(root: Path, kind: str) -> None:
    image, label = root / "images" / "a.nii.gz", root / "labels" / "a.nii.gz"
    if kind == "truncated":
        image.write_bytes(image.read_bytes()[:500])
    elif kind == "not an image":
        image.write_bytes(b"nothing")
    elif kind == "shape":
        save(label, mask(2, 5, shape=(20, 18, 7)))
    elif kind == "place":
        save(label, mask(2, 5), AFFINE + np.eye(4, k=3))
    elif kind == "probabilities":
        save(label, 0.3 * mask(1, dtype=np.float32))
    elif kind == "one-hot":
        save(label, np.stack([mask(1), mask(1)], -1))
    elif kind == "nan":
        save(image, np.full((20, 18, 8), np.nan))
    elif kind == "singular":
        save(image, affine=np.diag([0.8, 0.8, 5.0, 1.0]))
        loaded: Any = nib.load(image)
        header = loaded.header.copy()
        header.set_sform(np.diag([0.8, 0.8, 0.0, 1.0]), 1)
        nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj), None, header), image)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "a.nii.gz"),
        ("not an image", r"a.nii.gz cannot be read: [^\['\"]"),
        ("shape", r"label .*a.nii.gz does not lie on the grid of its image: shape \(20, 18, 8\) against \(20, 18, 7\)"),
        ("place", "corners up to 1 mm apart"),
        ("probabilities", "holds 0.3, which is no integer: a mask is expected. Threshold"),
        ("one-hot", "label .*a.nii.gz has 2 channels: one with a value for each class"),
        ("nan", "NaN or infinite"),
        ("singular", "is singular or not finite|contradicts itself"),
    ],
)
def test_bad_scans_are_listed_and_nothing_is_written(folder: Path, kind: str, message: str) -> None:
    broken(folder, kind)
    with pytest.raises(ValueError, match=message) as error:
        init(str(folder))
    assert str(error.value).startswith("1 of 5 scans cannot be used; mend them or move them away.")
    assert not (folder / "dataset.json").exists()


def test_folder_without_labels_and_names_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the labels hold the values \[2, 5\]: a name for each"):
        init(str(folder), class_names=["liver"])
    save(tmp_path / "other" / "a.nii")
    with pytest.raises(ValueError, match="1 images, but no label"):
        init(str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError, match="is no folder"):
        init(str(tmp_path / "absent"))


# from folder to masks


def bundle(*files: str, kind: str = "train", **overrides: Any) -> ConfigWorkflow:
    """Run configs of the bundle with what an overlay and ``overrides`` set, and nothing else."""
    workflow = ConfigWorkflow(
        config_file=[str(ROOT / "configs" / file) for file in files], workflow_type=kind, logging_file=False,
        bundle_root=str(ROOT), device="cpu", num_workers=0, **overrides,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


ORIENTATIONS = {"RAS": np.diag([1.0, 1.0, 3.0, 1.0]), "LPI": np.diag([-1.0, -1.0, -2.0, 1.0])}
ORIENTATIONS["PIR"] = np.array([[0, 0, 1.2, 5], [-0.9, 0, 0, 6], [0, -3.0, 0, 7], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("code", list(ORIENTATIONS))
def test_masks_and_scores_are_those_of_the_original_grid(tmp_path: Path, code: str) -> None:
    """The network passes its two channels on as logits, so the mask is known: where the second one is larger."""
    label = np.zeros((30, 26, 12), np.uint8)
    label[4:14, 3:20, 2:8] = label[14:20, 3:9, 2:8] = 7
    evidence = np.stack([label == 0, label == 7], -1).astype(np.float32)
    save(tmp_path / "images" / "a.nii.gz", evidence, ORIENTATIONS[code])
    save(tmp_path / "labels" / "a.nii.gz", label, ORIENTATIONS[code])
    torch.save({}, tmp_path / "model.pt")
    item = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({"test": [item], "training": [item]}))
    settings: dict[str, Any] = {
        "in_channels": 2, "class_names": {"1": "bar"}, "label_values": {"7": 1}, "orientation": "RAS",
        "spacing": [0.8, 0.8, 1.5], "normalize": {"_target_": "Identityd", "keys": "image"},
        "network_def": {"_target_": "torch.nn.Identity"}, "patch_size": [16, 16, 8],
        "weights": str(tmp_path / "model.pt"),
    }  # fmt: skip
    bundle("inference.json", kind="infer", dataset_dir=str(tmp_path / "images"), output_dir=str(tmp_path / "masks"),
           save_probability=True, **settings)  # fmt: skip
    mask_file, probability = (nib.load(tmp_path / "masks" / f"a_{part}.nii.gz") for part in ("seg", "probability"))
    for image in (mask_file, probability):
        assert image.shape[:3] == label.shape
        np.testing.assert_allclose(image.affine, ORIENTATIONS[code], atol=1e-4)
    mask_array = np.asarray(mask_file.dataobj)
    assert set(np.unique(mask_array)) == {0, 7}
    score = dice(mask_array == 7, label == 7)
    assert score > 0.93  # trilinear there and back
    settings = {**settings, "network": "$@network_def", "projection_head": None, "teacher": None}
    bundle("train.json", "evaluate.json", dataset_dir=str(tmp_path), output_dir=str(tmp_path / "eval"), **settings)
    with (tmp_path / "eval" / "per_case.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["dice"]) == pytest.approx(score, abs=1e-6)


def test_several_classes_and_channels_from_folder_to_report(tmp_path: Path) -> None:
    """Two files a scan, three classes of values 2, 4 and 9, thick slices, mixed spacings and orientations."""
    random = np.random.default_rng(0)
    root = tmp_path / "data"
    for number in range(6):
        label = mask(2, 4, 9, shape=(24, 20, 7 + number % 2), dtype=np.int16)
        affine = np.diag([0.8 + 0.1 * (number % 3), 0.8, 4.0, 1.0]) * ([-1, -1, 1, 1] if number == 2 else [1, 1, 1, 1])
        for channel in ("t1", "t2"):
            save(root / f"s{number}" / f"s{number}_{channel}.nii.gz", label + random.normal(size=label.shape), affine)
        if number < 4:
            save(root / f"s{number}" / f"s{number}_seg.nii.gz", label, affine)
    init(str(root), in_channels=2, class_names=["a", "b", "c"], test=1)
    overlay = str(root / "data_mine.json")
    tiny: dict[str, Any] = {"network_def::base_channels": 2, "head_pool_size": 8}
    train = {"iterations": 2, "epoch_length": 1, "val_interval": 2, "cache_dir": str(tmp_path / "cache"), **tiny}
    workflow = bundle("train.json", overlay, output_dir=str(tmp_path / "run"), ckpt_dir=str(tmp_path), **train)
    assert workflow.parser.get_parsed_content("spacing") == [0.9, 0.8, 4.0]
    weights = str(tmp_path / "model.pt")
    bundle("train.json", overlay, "evaluate.json", output_dir=str(tmp_path / "eval"), weights=weights, **tiny)
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert list(summary["classes"]) == ["a", "b", "c"]
    content = json.loads((root / "dataset.json").read_text())
    (held_out,) = content["test"]
    folder = root / Path(held_out["label"]).parent
    bundle("inference.json", overlay, kind="infer", dataset_dir=str(folder), output_dir=str(tmp_path / "masks"),
           weights=weights, **{"network_def::base_channels": 2},
           **{"dataset::data": [{"image": [str(root / path) for path in held_out["image"]]}]})  # fmt: skip
    (written,) = (tmp_path / "masks").glob("*.nii.gz")
    prediction, truth = np.asarray(nib.load(written).dataobj), np.asarray(nib.load(root / held_out["label"]).dataobj)
    assert set(np.unique(prediction)) <= {0, 2, 4, 9}
    with (tmp_path / "eval" / "per_case.csv").open() as file:
        scores = {row["class"]: float(row["dice"]) for row in csv.DictReader(file)}
    for name, value in (("a", 2), ("b", 4), ("c", 9)):
        assert scores[name] == pytest.approx(dice(prediction == value, truth == value), abs=1e-6)
    folders = {"evaluations": [str(tmp_path / "eval")], "predictions": [str(tmp_path / "masks")]}
    report(**folders, output_dir=str(tmp_path / "report"), dataset_dir=str(root))
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
