"""A small real dataset, and the bundle run on it in this process."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from simcvd_bundle.data import subject_phantoms

torch.set_num_threads(1)  # as forks have: other sums' last bits grow to 1 % in batch norm over two voxels
ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {
    "bundle_root": str(ROOT),
    "device": "cpu",
    "precision": "float32",
    "patch_size": [16, 16, 16],
    "window_stride": [8, 8, 8],
    "iterations": 2,
    "epoch_length": 1,
    "val_interval": 2,
    "num_labeled": 2,
    "num_workers": 0,
    "log_interval": 1,
    "head_pool_size": 8,
    "network_def::base_channels": 2,
}
TINY_PAIRS = {
    name: TINY[name] for name in (
        "bundle_root", "device", "precision", "patch_size", "iterations", "epoch_length", "num_workers", "log_interval",
        "network_def::base_channels",
    )
} | {"batch_size": 2, "head_widths": [8, 4]}  # fmt: skip
TINY_SCANS = {**TINY_PAIRS, "patch_size": [24, 24, 24], "val_interval": 2, "head_widths": [8]}
TERMS = {"segmentation", "sdm", "contrastive", "distillation", "consistency"}
INFERENCE_IDS = ("bundle_root", "device", "precision", "patch_size", "window_stride", "network_def::base_channels")

Run = Callable[..., ConfigWorkflow]


class Interrupt:
    """Handler that breaks a training in the middle of an epoch."""

    def __init__(self, iteration: int, error: str = "KeyboardInterrupt") -> None:
        self.iteration = iteration
        self.error = error

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)

    def __call__(self, engine: Engine) -> None:
        raise getattr(builtins, self.error)


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled and two unlabelled cases, one for validation, two for the test; smaller than the patch in z."""
    folder = tmp_path_factory.mktemp("dataset")
    random = np.random.RandomState(0)
    affine = np.diag([-0.7, -0.7, 2.0, 1.0])
    affine[:3, 3] = [10, 20, -30]
    sections: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for number, section in enumerate(["training"] * 5 + ["validation"] + ["test"] * 2):
        label = np.zeros((24, 20, 14), np.uint8)
        low = random.randint(2, 8, 3)
        label[low[0] : low[0] + 9, low[1] : low[1] + 8, low[2] : low[2] + 5] = 1
        image = (label + 0.3 * random.randn(*label.shape)).astype(np.float32)
        item = {"image": f"image_{number}.nii.gz"}
        nib.save(nib.Nifti1Image(image, affine), folder / item["image"])
        if number not in (3, 4):
            item["label"] = f"label_{number}.nii.gz"
            nib.save(nib.Nifti1Image(label, affine), folder / item["label"])
        sections[section].append(item)
    (folder / "dataset.json").write_text(json.dumps(sections))
    return folder


@pytest.fixture(scope="session")
def subjects_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Subjects of three classes with two scans each, all labelled: 12 for training, 6 each for validation and test."""
    return Path(subject_phantoms(str(tmp_path_factory.mktemp("subjects") / "set"), shape=(28, 28, 28)))


def write_series(folder: Path, array: np.ndarray, spacing: tuple[float, float, float]) -> None:
    """Write ``array`` (x, y, z) as a DICOM series of axial slices."""
    folder.mkdir(parents=True)
    for z in range(array.shape[2]):
        slice_ = itk.image_from_array(np.ascontiguousarray(array[:, :, z : z + 1].T.astype(np.int16)))
        slice_.SetSpacing(list(spacing))
        slice_.SetOrigin([0.0, 0.0, spacing[2] * z])
        io = itk.GDCMImageIO.New()
        io.KeepOriginalUIDOn()
        meta = slice_.GetMetaDataDictionary()
        meta["0008|0018"] = f"1.2.3.4.{z + 1}"
        meta["0020|000d"] = "1.2.3"
        meta["0020|000e"] = "1.2.3.4"
        meta["0020|0013"] = str(z + 1)
        meta["0020|0032"] = f"0\\0\\{spacing[2] * z}"
        meta["0020|0037"] = "1\\0\\0\\0\\1\\0"
        itk.imwrite(slice_, str(folder / f"{z:02d}.dcm"), imageio=io)


def make_workflow(
    *files: str, dataset_dir: Path, folder: Path, workflow_type: str = "train", **overrides: Any
) -> ConfigWorkflow:
    """Workflow of configs of the bundle, tiny, that reads ``dataset_dir`` and writes below ``folder``."""
    tiny = {"train.json": TINY, "pretrain.json": TINY_PAIRS, "classify.json": TINY_SCANS}
    settings = tiny.get(files[0], {name: TINY[name] for name in INFERENCE_IDS})
    settings = {
        **settings, "dataset_dir": str(dataset_dir), "output_dir": str(folder / "run"),
        "ckpt_dir": str(folder / "models"), **overrides,
    }  # fmt: skip
    if files[0] in tiny:
        settings.setdefault("cache_dir", str(folder / "cache"))
    return ConfigWorkflow(
        config_file=[str(ROOT / "configs" / file) for file in files],
        workflow_type=workflow_type,
        logging_file=False,
        **settings,
    )


def run_workflow(*files: str, **settings: Any) -> ConfigWorkflow:
    """Run the workflow of ``make_workflow``."""
    workflow = make_workflow(*files, **settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture
def run_bundle(dataset_dir: Path, tmp_path: Path) -> Run:
    """Run configs of the bundle in this process; returns the workflow."""

    def run(*files: str, **overrides: Any) -> ConfigWorkflow:
        return run_workflow(*files, **{"dataset_dir": dataset_dir, "folder": tmp_path, **overrides})

    return run


@pytest.fixture(scope="session")
def trained_run(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``models``, ``run`` and ``cache`` of a tiny training of two iterations; to be read only."""
    folder = tmp_path_factory.mktemp("trained")
    run_workflow("train.json", dataset_dir=dataset_dir, folder=folder, **{"validate::dataset::data": []})
    return folder
