"""Evaluation, inference, export, and the workflows from other folders and in several processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run, write_series
from monai.bundle import ckpt_export, verify_net_in_out
from processes import bundle_arguments, run
from scipy import ndimage

from simcvd_bundle.networks import VNet
from simcvd_bundle.utils.errors import root_cause

CONFIGS = ROOT / "configs"
SMALL_NETWORK = {"network_def::base_channels": 2}
IMPORTS = ["$import monai", "$import sys", "$import torch"]


@pytest.fixture
def trained(trained_run: Path, tmp_path: Path) -> Path:
    """Weights of a tiny training, in the folder of this test's runs."""
    shutil.copytree(trained_run / "models", tmp_path / "models")
    return tmp_path / "models" / "model.pt"


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1))


@pytest.mark.parametrize("mode", ["window", "fast"])
def test_evaluation_scores_the_original_labels(run_bundle: Run, trained: Path, tmp_path: Path, mode: str) -> None:
    workflow = run_bundle("train.json", "evaluate.json", inference_mode=mode, output_dir=str(tmp_path / "eval"))
    assert workflow.check_properties() == []
    with (tmp_path / "eval" / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["label_6", "label_7"]
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert summary["info"]["section"] == "test"
    assert summary["info"]["inference_mode"] == mode
    assert summary["overall"]["dice"]["mean"] == pytest.approx(np.mean([float(row["dice"]) for row in rows]))


def test_evaluation_and_inference_agree(run_bundle: Run, trained: Path, dataset_dir: Path, tmp_path: Path) -> None:
    run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"))
    run_bundle("inference.json", workflow_type="infer", output_dir=str(tmp_path / "masks"), weights=str(trained),
               dataset_dir=str(dataset_dir / "image_6.nii.gz"))  # fmt: skip
    mask = np.asarray(nib.load(tmp_path / "masks" / "image_6_seg.nii.gz").dataobj) > 0
    label = np.asarray(nib.load(dataset_dir / "label_6.nii.gz").dataobj) > 0
    with (tmp_path / "eval" / "per_case.csv").open() as file:
        dice = float(next(csv.DictReader(file))["dice"])
    assert mask.any()
    assert overlap(mask, label) == pytest.approx(dice, abs=1e-6)


@pytest.mark.parametrize("classes", [[], [1]])
def test_scores_and_masks_keep_the_largest_piece_of_a_class(
    run_bundle: Run, trained: Path, dataset_dir: Path, tmp_path: Path, classes: list[int]
) -> None:
    """A network that is not trained sees the class in many places."""
    torch.manual_seed(0)
    network = VNet(base_channels=2).eval()
    image = torch.tensor(np.asarray(nib.load(dataset_dir / "image_6.nii.gz").dataobj, np.float32))
    logits = network(((image - image.mean()) / image.std())[None, None]).detach()
    network.segmentation.bias.data[1] -= (logits[0, 1] - logits[0, 0]).quantile(0.95)  # at a twentieth of the voxels
    torch.save(network.state_dict(), trained)
    run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), one_piece_classes=classes,
               save_predictions=True)  # fmt: skip
    run_bundle("inference.json", workflow_type="infer", output_dir=str(tmp_path / "masks"), weights=str(trained),
               dataset_dir=str(dataset_dir / "image_6.nii.gz"), one_piece_classes=classes)  # fmt: skip
    masks = sorted(tmp_path.glob("*/image_6_seg.nii.gz"))
    assert len(masks) == 2
    for mask in masks:
        _, pieces = ndimage.label(np.asarray(nib.load(mask).dataobj) > 0, np.ones((3, 3, 3)))
        assert (pieces == 1) == bool(classes)


def test_unlabeled_section_evaluates_the_labels_that_training_did_not_see(
    run_bundle: Run, trained: Path, tmp_path: Path
) -> None:
    run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), eval_section="unlabeled")
    with (tmp_path / "eval" / "per_case.csv").open() as file:
        assert [row["case"][-1] for row in csv.DictReader(file)] == ["2"]


def test_missing_weights_are_named(run_bundle: Run, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", "evaluate.json")
    assert f"No weights {tmp_path / 'models' / 'model.pt'}: train first" in str(error.value.__cause__)


def write_nrrd(path: Path, array: np.ndarray, direction: np.ndarray) -> None:
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing([0.5, 0.5, 2.0])
    image.SetOrigin([5.0, -7.0, 9.0])
    image.SetDirection(direction)
    itk.imwrite(image, str(path))


def test_inference_keeps_the_geometry_of_every_format(run_bundle: Run, trained: Path, tmp_path: Path) -> None:
    scans = tmp_path / "my scans é"
    scans.mkdir()
    random = np.random.RandomState(1)
    array = (100 * random.rand(20, 18, 9)).astype(np.int16)
    oblique = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = oblique @ np.diag([0.5, 0.5, 2.0])
    nib.save(nib.Nifti1Image(array, affine), scans / "oblique.nii.gz")
    write_nrrd(scans / "flipped.nrrd", array, np.diag([-1.0, 1.0, 1.0]))
    write_series(scans / "series", array, (0.5, 0.5, 2.0))
    run_bundle("inference.json", workflow_type="infer", output_dir=str(tmp_path / "masks"), weights=str(trained),
               dataset_dir=str(scans), save_probability=True, save_sdm=True)  # fmt: skip
    masks = {path.name: nib.load(path) for path in (tmp_path / "masks").glob("*.nii.gz")}
    assert len(masks) == 9
    expected_nrrd = np.diag([0.5, -0.5, 2.0, 1.0])
    expected_nrrd[:3, 3] = [-5.0, 7.0, 9.0]
    for name, expected in (("oblique", affine), ("flipped", expected_nrrd)):
        mask, probability, sdm = (masks[f"{name}_{kind}.nii.gz"] for kind in ("seg", "probability", "sdm"))
        assert mask.shape == array.shape
        for image in (mask, probability, sdm):
            np.testing.assert_allclose(image.affine, expected, atol=1e-5)
        assert mask.get_data_dtype() == np.uint8
        foreground = np.asarray(probability.dataobj).squeeze()
        np.testing.assert_array_equal(np.asarray(mask.dataobj) == 1, foreground > 0.5)
        assert np.abs(np.asarray(sdm.dataobj)).max() <= 1
    series = masks["series_seg.nii.gz"]
    assert series.shape == array.shape
    np.testing.assert_allclose(np.abs(np.diag(series.affine)), [0.5, 0.5, 2.0, 1.0], atol=1e-5)


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True,
        text=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip


def tiny_arguments(dataset_dir: Path, output: Path) -> list[str]:
    settings = {**TINY, "dataset_dir": dataset_dir, "output_dir": output / "run", "ckpt_dir": output / "models"}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_training_from_another_folder(dataset_dir: Path, tmp_path: Path) -> None:
    """In a new process, with only ``--bundle_root`` to find the package (which may also be installed)."""
    result = command(
        "-m", "monai.bundle", "run", "training", "--config_file", str(CONFIGS / "train.json"),
        *tiny_arguments(dataset_dir, tmp_path), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Validation Dice of the student after 2 iterations" in result.stdout
    assert (tmp_path / "models" / "model.pt").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "run"]


def test_an_error_ends_with_its_cause(dataset_dir: Path, tmp_path: Path) -> None:
    settings = {**TINY, "dataset_dir": dataset_dir, "ckpt_dir": tmp_path / "models", "num_labeled": 99}
    code, output = run(bundle_arguments(["train.json"], settings, "training"), tmp_path / "log.txt", tmp_path)
    assert code == 1
    assert output.strip().splitlines()[-1].startswith("error: num_labeled is 99, but section 'training' of")
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_two_processes_train_as_one(dataset_dir: Path, tmp_path: Path) -> None:
    result = command(
        "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "monai.bundle", "run", "training",
        "--config_file", f"['{CONFIGS / 'train.json'}','{CONFIGS / 'multi_gpu_train.json'}']",
        *tiny_arguments(dataset_dir, tmp_path), cwd=tmp_path, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in weights)
    assert result.stdout.count("Wrote the trained weights") == 1


def test_network_fits_the_metadata() -> None:
    verify_net_in_out(
        net_id="network_def", meta_file=str(CONFIGS / "metadata.json"), config_file=str(CONFIGS / "inference.json"),
        device="cpu", **SMALL_NETWORK,
    )  # fmt: skip


def test_torchscript_export_gives_the_same_logits(run_bundle: Run, trained: Path, tmp_path: Path) -> None:
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(trained),
        meta_file=str(CONFIGS / "metadata.json"), config_file=str(CONFIGS / "inference.json"), **SMALL_NETWORK,
    )  # fmt: skip
    workflow = run_bundle("inference.json", workflow_type="infer", weights=str(trained))
    network = workflow.parser.get_parsed_content("network_def").eval()
    image = torch.rand(1, 1, 20, 17, 33)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image))


def test_an_exported_network_runs_by_the_trt_overlay(
    run_bundle: Run, trained: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    """TorchScript in place of TensorRT, which needs a GPU: all but the import of torch_tensorrt is the same.

    A scan that cannot be read ends in an error (the exit code) after the others have been written.
    """
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "image_6.nii.gz").symlink_to(dataset_dir / "image_6.nii.gz")
    (scans / "damaged.nii.gz").touch()
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(trained),
        meta_file=str(CONFIGS / "metadata.json"), config_file=str(CONFIGS / "inference.json"), **SMALL_NETWORK,
    )  # fmt: skip
    for name, files, settings in (
        ("plain", ["inference.json"], {}),
        (
            "exported",
            ["inference.json", "inference_trt.json"],
            {"engine": str(tmp_path / "model.ts"), "imports": IMPORTS},
        ),
    ):
        with pytest.raises(RuntimeError) as error:
            run_bundle(*files, workflow_type="infer", output_dir=str(tmp_path / name), save_probability=True,
                       dataset_dir=str(scans), **settings)  # fmt: skip
        assert "1 cases failed, all others are written" in str(root_cause(error.value))
    plain, exported = (
        np.asarray(nib.load(tmp_path / name / "image_6_probability.nii.gz").dataobj) for name in ("plain", "exported")
    )
    assert plain.std() > 0
    np.testing.assert_allclose(exported, plain, atol=1e-6)


def test_nested_overrides_in_the_form_of_the_zoos_unit_tests(
    run_bundle: Run, dataset_dir: Path, tmp_path: Path
) -> None:
    """Train, evaluate, infer on given data, with ``#`` and positions, as the Model Zoo tests its bundles."""
    items = [{key: str(dataset_dir / f"{key}_{number}.nii.gz") for key in ("image", "label")} for number in (0, 1, 5)]
    train = run_bundle("train.json", **{
        "train#trainer#max_epochs": 1, "train#random_transforms#0#prob": 0.25, "train#dataset#data": items[:2],
        "validate#dataset#data": items[2:], "network_def#dropout": 0.1,
    })  # fmt: skip
    get = train.parser.get_parsed_content
    assert get("train::random_transforms::0").prob == 0.25
    assert get("network_def").dropout.p == 0.1
    assert get("train::trainer").state.iteration == get("train::trainer").state.epoch == 1
    evaluate = run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "eval"), **{
        "validate#dataset#data": items,
    })  # fmt: skip
    infer = run_bundle("inference.json", workflow_type="infer", output_dir=str(tmp_path / "masks"), **{
        "dataset#data": [{"image": items[0]["image"]}],
    })  # fmt: skip
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["num_cases"] == 3
    assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == ["image_0_seg.nii.gz"]
    assert [workflow.check_properties() for workflow in (train, evaluate, infer)] == [[], [], []]
