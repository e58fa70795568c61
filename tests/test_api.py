"""The Python API: what it trains and predicts is what the configs' commands do."""

from __future__ import annotations

import math
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run
from monai.transforms import LoadImage

import simcvd_bundle

SETTINGS: dict[str, Any] = {name: value for name, value in TINY.items() if name not in ("bundle_root", "num_labeled")}
Folders = tuple[Path, Path]


@pytest.fixture(scope="module")
def folders(dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folder of the data, and of a tiny training that was started elsewhere with relative paths."""
    output = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(dataset_dir)
        model = simcvd_bundle.train(
            [("image_0.nii.gz", "label_0.nii.gz"), (Path("image_1.nii.gz"), Path("label_1.nii.gz"))],
            ["image_3.nii.gz", "image_4.nii.gz"],
            [("image_5.nii.gz", "label_5.nii.gz")],
            output_dir=output, ckpt_dir=str(output / "models"), cache_dir=str(output / "cache"), **SETTINGS,
        )  # fmt: skip
    assert isinstance(model, simcvd_bundle.Segmenter)
    assert not model.network.training
    return dataset_dir, output


@pytest.fixture
def model(folders: Folders) -> simcvd_bundle.Segmenter:
    return simcvd_bundle.Segmenter(folders[1] / "model.pt", **SETTINGS)


def test_training_is_that_of_the_command(run_bundle: Run, folders: Folders, tmp_path: Path) -> None:
    data, output = folders
    items = [{key: str(data / f"{key}_{n}.nii.gz") for key in ("image", "label")} for n in (0, 1)]
    items += [{"image": str(data / f"image_{n}.nii.gz")} for n in (3, 4)]
    run_bundle("train.json", **{"train::dataset::data": items, "validate::dataset::data": []})
    weights = [torch.load(folder / "model.pt", weights_only=True) for folder in (output, tmp_path / "run")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock", "cache", "checkpoints", "model.pt", "models", "tensorboard",
    ]  # fmt: skip


def test_prediction_is_that_of_the_command(
    run_bundle: Run, folders: Folders, model: simcvd_bundle.Segmenter, tmp_path: Path
) -> None:
    data, output = folders
    scan = data / "image_6.nii.gz"
    result = model.predict(scan)
    run_bundle("inference.json", workflow_type="infer", output_dir=str(tmp_path / "masks"), dataset_dir=str(scan),
               weights=str(output / "model.pt"), save_probability=True, save_sdm=True)  # fmt: skip
    for kind, array in (("seg", result.mask), ("probability", result.probability), ("sdm", result.sdm)):
        written = nib.load(tmp_path / "masks" / f"image_6_{kind}.nii.gz")
        np.testing.assert_array_equal(array[0].numpy(), np.asarray(written.dataobj))
        np.testing.assert_allclose(array.affine, written.affine)
    assert result.mask.shape == (1, 24, 20, 14)
    assert result.mask.dtype == torch.uint8
    assert result.uncertainty is None


def test_arrays_are_treated_as_files_are(folders: Folders, model: simcvd_bundle.Segmenter) -> None:
    scan = folders[0] / "image_6.nii.gz"
    expected = model.predict(str(scan)).probability
    array = np.asarray(nib.load(scan).dataobj, dtype=np.float32)
    kept = array.copy()
    image = LoadImage(ensure_channel_first=True)(scan)
    for given in (array, array[None], torch.as_tensor(array), image):
        assert torch.equal(model.predict(given).probability.as_tensor(), expected.as_tensor())
    np.testing.assert_array_equal(array, kept)
    np.testing.assert_allclose(model.predict(image).mask.affine, nib.load(scan).affine)
    assert image.meta["original_channel_dim"] != 0  # the caller's image stays as it is


@pytest.mark.parametrize("mode", ["window", "fast"])
def test_uncertainty_is_the_entropy_of_the_mean_over_dropout(folders: Folders, mode: str) -> None:
    def load(dropout: float) -> simcvd_bundle.Segmenter:
        settings = {**SETTINGS, "inference_mode": mode, "network_def::dropout": dropout}
        return simcvd_bundle.Segmenter(folders[1] / "model.pt", **settings)

    scan = folders[0] / "image_6.nii.gz"
    without = load(0.0).predict(scan, dropout_samples=2)
    p = without.probability.double().as_tensor()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()) / math.log(2)
    assert without.uncertainty is not None
    torch.testing.assert_close(without.uncertainty.as_tensor(), entropy.float(), atol=1e-5, rtol=1e-5)
    assert without.sdm.shape == without.uncertainty.shape == (1, 24, 20, 14)

    model = load(0.5)
    first, second, none = (model.predict(scan, samples) for samples in (3, 3, 0))
    assert first.uncertainty is not None
    assert second.uncertainty is not None
    assert 0 <= first.uncertainty.min() <= first.uncertainty.max() <= 1 + 1e-6
    assert not torch.allclose(first.uncertainty, second.uncertainty)
    assert not torch.allclose(first.uncertainty, without.uncertainty)
    for result in (first, second, none):  # the other maps come from a pass without dropout
        assert torch.equal(result.probability, without.probability)
        assert torch.equal(result.sdm, without.sdm)


def test_errors_name_the_remedy(folders: Folders, model: simcvd_bundle.Segmenter, tmp_path: Path) -> None:
    data, output = folders
    with pytest.raises(FileNotFoundError, match=r"none\.nii\.gz does not exist"):
        model.predict(data / "none.nii.gz")
    with pytest.raises(ValueError, match=r"holds \d+ scans: give one of them"):
        model.predict(data)
    with pytest.raises(ValueError, match=r"\(H, W, D\) or \(channels, H, W, D\), got \[4, 4\]"):
        model.predict(np.zeros((4, 4)))
    with pytest.raises(FileNotFoundError, match=r"No weights .*none\.pt: train first"):
        simcvd_bundle.Segmenter(tmp_path / "none.pt", **SETTINGS)
    with pytest.raises(ValueError, match="do not fit the network"):
        simcvd_bundle.Segmenter(output / "model.pt", **{**SETTINGS, "class_names": {"1": "a", "2": "b"}})
    with pytest.raises(ValueError, match=r"'patch_sise' \(did you mean 'patch_size'"):
        simcvd_bundle.Segmenter(output / "model.pt", **SETTINGS, patch_sise=3)
    pair = (data / "image_0.nii.gz", data / "none.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"none\.nii\.gz does not exist"):
        simcvd_bundle.train([pair], output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=r"'iteration' \(did you mean 'iterations'"):
        simcvd_bundle.train([pair[:1] * 2], output_dir=tmp_path / "run", iteration=4)
    with pytest.raises(FileNotFoundError, match="give its folder as bundle_root, or install it with `pip install -e`"):
        simcvd_bundle.train([], output_dir=tmp_path / "run", bundle_root=tmp_path)
    assert not (tmp_path / "run").exists()


def test_import_is_cheap_and_needs_no_configs() -> None:
    """As from a wheel: torch and MONAI come with the first use."""
    code = (
        "import sys, simcvd_bundle; print({'torch', 'monai', 'ignite'} & set(sys.modules), simcvd_bundle.__version__)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["set()", simcvd_bundle.__version__]
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        simcvd_bundle.predict  # noqa: B018


@pytest.mark.slow
def test_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line, shorter in (
        ("iterations=100", "iterations=2, ckpt_dir='models', cache_dir='cache'"),
        ("dropout_samples=10", "dropout_samples=2"),
        ('"inference_mode": "fast"', '"inference_mode": "fast", "network_def::base_channels": 2'),
    ):
        assert line in block
        block = block.replace(line, shorter)
    monkeypatch.chdir(tmp_path)
    Path("readme.py").write_text(block, encoding="utf-8")
    names = runpy.run_path("readme.py")
    assert names["result"].mask.shape == names["result"].uncertainty.shape == (1, 64, 64, 48)
    assert (tmp_path / "runs" / "python" / "model.pt").is_file()
