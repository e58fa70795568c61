"""The bundle under what MONAI Label 0.8.5 does to it; the last part runs Label's own classes, if they are installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from monai.data.image_writer import NibabelWriter
from monai.transforms import SaveImaged
from torch import Tensor, nn

from simcvd_bundle.data.scans import LABEL_DATASTORE
from simcvd_bundle.networks.vnet import VNet

# training: what BundleTrainTask overrides


@pytest.fixture
def datastore(dataset_dir: Path, tmp_path: Path) -> Path:
    """Five images in a local datastore of MONAI Label; the first three have labels."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / LABEL_DATASTORE).write_text("{}")
    for number in range(5):
        shutil.copy(dataset_dir / f"image_{number}.nii.gz", folder / f"case_{number}.nii.gz")
        if number < 3:
            shutil.copy(dataset_dir / f"label_{number}.nii.gz", folder / "labels" / "final" / f"case_{number}.nii.gz")
    return folder


def label_overrides(datastore: Path, train: list[int], validate: list[int], weights: Path) -> dict[str, Any]:
    """The overrides of ``BundleTrainTask.__call__``, ids as it spells them."""
    handlers = json.loads((ROOT / "configs" / "train.json").read_text())["train"]["handlers"]
    if weights.is_file():
        load = {"load_path": str(weights), "load_dict": {"model": "$@network"}, "strict": False}
        handlers.insert(0, {"_target_": "CheckpointLoader", **load})

    def items(numbers: list[int]) -> list[dict[str, str]]:
        files = [f"case_{number}.nii.gz" for number in numbers]
        return [{"image": str(datastore / f), "label": str(datastore / "labels" / "final" / f)} for f in files]

    return {
        "train#trainer#max_epochs": 1,
        "train#dataset#data": items(train),
        "train#handlers": handlers,
        "validate#dataset#data": items(validate),
    }


def test_stock_app_trains_with_the_images_without_label(
    run_bundle: Run, datastore: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No case to validate on, nor a datalist, and yet weights, checkpoints and TensorBoard."""
    weights = tmp_path / "models" / "model.pt"
    with caplog.at_level(logging.INFO):
        workflow = run_bundle("train.json", dataset_dir="nowhere", **label_overrides(datastore, [0, 1, 2], [], weights))
    assert "labeled images=3, unlabeled images=2" in caplog.text
    assert workflow.parser.get_parsed_content("train::trainer").state.max_epochs == 1
    assert weights.is_file()
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint_*.pt"))
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_unlabeled_data_of_an_app_replace_the_search(
    run_bundle: Run, datastore: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = label_overrides(datastore, [0, 1, 2], [], tmp_path / "models" / "model.pt")
    with caplog.at_level(logging.INFO):
        run_bundle("train.json", unlabeled_data=[{"image": str(datastore / "case_4.nii.gz")}], **overrides)
    assert "labeled images=3, unlabeled images=1" in caplog.text


def equal(a: nn.Module, b: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.state_dict().items())


def test_second_round_starts_from_the_first_with_the_teacher_in_step(
    run_bundle: Run, datastore: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the case that the first round held out for validation was none of its unlabelled ones."""
    weights = tmp_path / "models" / "model.pt"
    with caplog.at_level(logging.INFO):
        run_bundle("train.json", **label_overrides(datastore, [0, 1], [2], weights))
    assert "labeled images=2, unlabeled images=2" in caplog.text
    assert "Validation Dice of the student after 1 iterations" in caplog.text
    first = torch.load(weights, weights_only=True)
    settings = {**TINY, **label_overrides(datastore, [0, 1, 2], [], weights), "ckpt_dir": str(weights.parent)}
    folders = {"output_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache")}
    workflow = ConfigWorkflow(
        str(ROOT / "configs" / "train.json"), workflow_type="train", logging_file=False, **settings, **folders
    )
    workflow.initialize()
    get = workflow.parser.get_parsed_content
    seen = []

    def look(engine: Engine) -> None:
        seen.extend([equal(get("network_def"), first), equal(get("teacher")["network"], first)])

    get("train::trainer").add_event_handler(Events.ITERATION_STARTED(once=1), look)
    workflow.run()
    workflow.finalize()
    assert seen == [True, True]
    assert not equal(get("network_def"), first)
    assert equal(get("network_def"), torch.load(weights, weights_only=True))


# inference: the geometry of the mask

ANGLE = np.deg2rad(25)
OBLIQUE = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])
ORIENTATIONS = {
    "RAS": np.eye(3),
    "LPS": np.diag([-1.0, -1, 1]),
    "anisotropic": np.diag([0.6, 0.6, 3.0]),
    "oblique": OBLIQUE @ np.diag([-0.8, 0.9, 2.0]),
    "permuted": np.array([[0, 0, 2.0], [-0.7, 0, 0], [0, 0.7, 0]]),
}


def asymmetric_case(folder: Path, name: str, shape: tuple[int, int, int] = (40, 36, 32)) -> tuple[Path, np.ndarray]:
    """A scan whose bright part no flip and no exchange of axes maps onto itself, and the part."""
    label = np.zeros(shape, np.uint8)
    label[6:30, 8:14, 5:11] = label[6:12, 8:28, 5:11] = label[6:12, 8:14, 5:21] = 1
    image = 10 * label + np.random.RandomState(0).rand(*shape).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[name]
    affine[:3, 3] = [12, -34, 56]
    nib.save(nib.Nifti1Image(image, affine), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz", label


class Threshold(nn.Module):
    """A network that finds what is two standard deviations brighter than the mean of a z-scored image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([2 - x, x - 2], 1)


def infer_as_label(image: Path, mode: str, result: Path) -> None:
    """``BasicInferTask.__call__`` with the transforms of ``BundleInferTask`` and Label's NIfTI writer."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "inference.json"))
    parser.update({"bundle_root": str(ROOT), "device": "cpu", "patch_size": [16, 16, 16], "inference_mode": mode})
    data: dict[str, Any] = {"image": str(image), "image_path": str(image), "device": "cpu"}
    for transform in parser.get_parsed_content("preprocessing").transforms:
        data = transform(data)
    image_tensor = data["image"]
    assert isinstance(image_tensor, MetaTensor)
    data["pred"] = parser.get_parsed_content("inferer")(image_tensor[None], Threshold().eval())[0]
    for transform in parser.get_parsed_content("postprocessing").transforms:
        if not isinstance(transform, SaveImaged):
            data = transform(data)
    # Restored resizes to the original shape, which must not be needed, and passes on the original affine
    assert data["pred"].shape[1:] == tuple(image_tensor.meta["spatial_shape"])
    writer = NibabelWriter(output_dtype=None)
    writer.set_data_array(data["pred"][0], channel_dim=None, spatial_ndim=None)
    affine = image_tensor.meta["original_affine"]
    writer.set_metadata({"affine": affine, "original_affine": affine})
    writer.write(result)


@pytest.mark.parametrize("mode", ["window", "fast"])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_masks_come_back_in_the_orientation_of_the_image(tmp_path: Path, name: str, mode: str) -> None:
    image, label = asymmetric_case(tmp_path, name)
    infer_as_label(image, mode, tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8  # Label's ITK writer takes no 64-bit integers
    np.testing.assert_allclose(mask.affine, nib.load(image).affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), label)


# with MONAI Label installed (docs/monai_label.md): its tasks, its datastore and our app


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small bundle in the folder of our app, with random weights."""
    pytest.importorskip("monailabel.interfaces")
    app = tmp_path / "app"
    folder = app / "model" / "simcvd"
    shutil.copytree(ROOT / "label_app", app)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for file in ("train.json", "inference.json"):
        config = json.loads((folder / "configs" / file).read_text())
        config |= {name: value for name, value in TINY.items() if name in config}
        config["network_def"]["base_channels"] = 2
        (folder / "configs" / file).write_text(json.dumps(config))
    (folder / "models").mkdir()
    torch.manual_seed(0)
    torch.save(VNet(base_channels=2).state_dict(), folder / "models" / "model.pt")
    return folder


@pytest.fixture
def app_module(bundle: Path) -> Any:
    spec = importlib.util.spec_from_file_location("label_app_main", bundle.parents[1] / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["label_app_main"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_label_s_inference_keeps_the_orientation(bundle: Path, tmp_path: Path, name: str) -> None:
    from monailabel.tasks.infer.bundle import BundleInferTask

    image, label = asymmetric_case(tmp_path, name)
    task = BundleInferTask(str(bundle), {})
    task._get_network = lambda device, data: Threshold()
    file, _ = task({"image": str(image), "device": "cpu", "result_extension": ".nii.gz"})
    mask = nib.load(file)
    np.testing.assert_allclose(mask.affine, nib.load(image).affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), label)


def test_our_app_trains_with_the_pool_and_chooses_by_disagreement(
    bundle: Path, app_module: Any, datastore: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (datastore / LABEL_DATASTORE).unlink()  # Label writes its own
    app = app_module.SimCVDApp(str(bundle.parents[1]), str(datastore), {"models": "simcvd", "zoo_source": "local"})
    app._auto_update_scoring = False
    store = app.datastore()
    with caplog.at_level(logging.INFO):
        app.train({"model": "simcvd", "max_epochs": 1, "val_split": 0, "device": "cpu"})
    [line] = [line for line in caplog.messages if line.startswith("> unlabeled_data: ")]  # what MONAI's run was given
    assert [name in line for name in ("case_0", "case_3", "case_4")] == [False, True, True]
    assert (bundle / "models" / "replaced").is_dir()
    app.scoring({"method": "disagreement"})
    scores = {image: store.get_image_info(image)[app_module.SCORE] for image in store.get_unlabeled_images()}
    assert scores.keys() == {"case_3", "case_4"}
    assert all(0 <= score <= 1 for score in scores.values())
    store.update_image_info("case_4", {app_module.SCORE: 2.0})
    assert app.next_sample({"strategy": "disagreement"})["id"] == "case_4"
    store.update_image_info("case_3", {app_module.SCORE: 3.0})
    assert app.next_sample({"strategy": "disagreement"})["id"] == "case_3"
