"""The Python API: what it trains and predicts is what the configs' commands do."""

from __future__ import annotations

import copy
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, Run
from monai.data import MetaTensor
from monai.transforms import LoadImage
from torch import Tensor

import simcvd_bundle
from simcvd_bundle.utils import memory

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
            output_dir=output, **SETTINGS,
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
        ".lock", "cache", "checkpoints", "cost.json", "latest", "model.pt", "tensorboard",
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
    values = simcvd_bundle.Segmenter(output / "model.pt", **{**SETTINGS, "label_values": {"182305693": 1}})
    assert torch.equal(values.predict(scan).mask, result.mask)  # indices of classes, whatever files hold
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
    views = {
        "flipped": array[:, ::-1][:, ::-1], "Fortran": np.asfortranarray(array), "float64": array.astype(float),
        "big-endian": array.astype(">f4"), "lists": array.tolist(), "strided": torch.as_tensor(array.T.copy()).T,
    }  # fmt: skip
    for name, view in views.items():
        assert torch.equal(model.predict(view).probability.as_tensor(), expected.as_tensor()), name
    whole = np.round(100 * array)
    expected = model.predict(whole).probability
    for dtype in (">i2", "int8", "uint16", "uint32", "int64", "uint64", "float16"):
        given = (whole - whole.min() if dtype[0] == "u" else whole % 100 if dtype == "int8" else whole).astype(dtype)
        given.flags.writeable = False
        same = model.predict(given.astype(np.float32)).probability
        assert torch.equal(model.predict(given).probability.as_tensor(), same.as_tensor()), dtype


@pytest.mark.parametrize("dtype", ["complex64", "U3", "O", "datetime64[s]"])
def test_arrays_of_other_than_real_numbers_are_refused(model: simcvd_bundle.Segmenter, dtype: str) -> None:
    with pytest.raises(TypeError, match="one real number for each voxel"):
        model.predict(np.zeros((8, 8, 8), dtype))
    with pytest.raises(ValueError, match="singular or not finite"):
        model.predict(MetaTensor(torch.rand(8, 8, 8), affine=torch.zeros(4, 4)))


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
    torch.manual_seed(0)  # this network of two channels has few outcomes
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
    with pytest.raises(ValueError, match=r"\(H, W, D\) or \(channels, H, W, D\), got the shape \(4, 4\)"):
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


def volume(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).rand(*shape).astype(np.float32)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "has voxels that are NaN or infinite"), (np.inf, "NaN or infinite"), (None, "the image is constant")],
)
def test_a_scan_that_cannot_be_used_is_refused_by_name(
    model: simcvd_bundle.Segmenter, tmp_path: Path, value: float | None, message: str
) -> None:
    array = np.ones((24, 20, 14), np.float32) if value is None else volume(24, 20, 14)
    if value is not None:
        array[3, 4, 5] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii.gz")
    loaded = LoadImage(ensure_channel_first=True)(tmp_path / "scan.nii.gz")
    shape = r"of shape \(1, 24, 20, 14\)"
    for image, name in ((tmp_path / "scan.nii.gz", "scan.nii.gz"), (array, shape), (loaded, "scan.nii.gz")):
        with pytest.raises(ValueError, match=f"The case .*{name} cannot be used: .*{message}"):
            model.predict(image)


def test_an_array_of_other_channels_is_refused(model: simcvd_bundle.Segmenter) -> None:
    with pytest.raises(ValueError, match=r"of shape \(3, 24, 20, 14\) cannot be used: the image has 3 channels"):
        model.predict(volume(3, 24, 20, 14))


def big_endian(kind: str) -> Callable[[np.ndarray], Any]:
    return lambda values: values.astype(np.dtype(kind).newbyteorder(">"))


VIEWS: dict[str, Callable[[np.ndarray], Any]] = {
    "flipped": lambda values: np.ascontiguousarray(values[::-1, :, ::-1])[::-1, :, ::-1],
    "transposed": lambda values: np.ascontiguousarray(values.T).T,
    "every second voxel": lambda values: np.repeat(values, 2, axis=1)[:, ::2],
    "Fortran order": np.asfortranarray,
    "lists": np.ndarray.tolist,
    "list of slices": list,
    "transposed tensor": lambda values: torch.as_tensor(values.T.copy()).permute(2, 1, 0),
    "channels last": lambda values: torch.as_tensor(values)[None, None].to(memory_format=torch.channels_last_3d)[0],
    "tensor with gradient": lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True),
    **{f"numpy {kind}": lambda values, kind=kind: values.astype(kind)
       for kind in "float16 float32 float64 longdouble int8 int16 int32 int64 uint8 uint16 uint32 uint64".split()},
    **{f"big-endian {kind}": big_endian(kind) for kind in "f4 f8 i2 u2 i4 u8".split()},
    **{f"torch {kind}": lambda values, kind=kind: torch.tensor(values).to(getattr(torch, kind))
       for kind in "float16 bfloat16 float64 int8 int16 int64 uint8 uint16 uint32 uint64".split()},
}  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_an_array_of_any_type_and_view_is_that_array_in_float32(model: simcvd_bundle.Segmenter, view: str) -> None:
    values = (volume(24, 20, 14) * 100).round()  # whole numbers that all types hold
    expected = model.predict(values.astype(np.float32)).probability.as_tensor()
    given = VIEWS[view](values)
    before = copy.deepcopy(given)
    if isinstance(given, np.ndarray):
        given.setflags(write=False)
    assert torch.equal(model.predict(given).probability.as_tensor(), expected)
    same = torch.equal if isinstance(given, Tensor) else np.array_equal
    assert same(given, before)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_a_mask_of_two_values_is_an_image_too(model: simcvd_bundle.Segmenter, convert: Callable[..., Any]) -> None:
    values = volume(24, 20, 14) > 0.5
    expected = model.predict(values.astype(np.float32)).probability.as_tensor()
    assert torch.equal(model.predict(convert(values)).probability.as_tensor(), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_a_permuted_metatensor_keeps_its_affine(model: simcvd_bundle.Segmenter, dtype: Any) -> None:
    affine = torch.tensor([[0, 2.0, 0, 5], [-3, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], dtype=torch.float64)
    values = (volume(24, 20, 14) * 100).astype(dtype)
    image = MetaTensor(torch.as_tensor(values.transpose(2, 1, 0).copy()).permute(2, 1, 0), affine=affine)
    mask = model.predict(image).mask
    torch.testing.assert_close(mask.affine, affine)
    assert torch.equal(mask.as_tensor(), model.predict(values.astype(np.float32)).mask.as_tensor())


@pytest.mark.parametrize(
    "array",
    [volume(4, 4, 4).astype(np.complex64), volume(4, 4, 4).astype(str), volume(4, 4, 4).astype(object),
     np.zeros((4, 4, 4), [("red", "u1"), ("green", "u1")]), np.zeros((4, 4, 4), "M8[s]"),
     torch.zeros(4, 4, 4, dtype=torch.complex64), torch.zeros(4, 4, 4).to_sparse()],
    ids=["complex", "text", "objects", "structured", "times", "complex tensor", "sparse tensor"],
)  # fmt: skip
def test_an_array_of_no_real_numbers_is_refused(model: simcvd_bundle.Segmenter, array: Any) -> None:
    with pytest.raises(TypeError, match="An array must hold one real number for each voxel and channel, got "):
        model.predict(array)


def test_lists_of_numbers_that_are_no_volume_are_refused(model: simcvd_bundle.Segmenter) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, D\) or \(channels, H, W, D\), got the shape \(2,\)"):
        model.predict([1.0, 2.0])
    with pytest.raises(TypeError, match="Expected a file, or a list of one file a channel, got ndarray"):
        simcvd_bundle.train([([volume(4, 4, 4)] * 2, "label.nii")], output_dir="run")


def test_a_path_with_a_hash_is_refused_before_the_config_reads_another(tmp_path: Path) -> None:
    (tmp_path / "study#3").mkdir()
    for name in ("image.nii", "label.nii"):
        (tmp_path / "study#3" / name).touch()
    pair = (tmp_path / "study#3" / "image.nii", tmp_path / "study#3" / "label.nii")
    with pytest.raises(ValueError, match=r"study#3/image.nii has a #, .* rename the file or folder, or link to it"):
        simcvd_bundle.train([pair], output_dir=tmp_path / "run")


@pytest.mark.parametrize("image", [None, 3, [], {"image": "a.nii"}])
def test_what_is_neither_file_nor_array_is_refused(model: simcvd_bundle.Segmenter, image: Any) -> None:
    with pytest.raises(TypeError, match="Expected a file, or a list of one file a channel, got "):
        model.predict(image)
    with pytest.raises(TypeError, match="Expected a file, or a list of one file a channel, got "):
        simcvd_bundle.train([(image, "label.nii")], output_dir="run")


def test_a_file_a_channel(folders: Folders, tmp_path: Path) -> None:
    """As a list, as a folder, as one file of all channels, and as an array: the same scan."""
    settings = {**SETTINGS, "in_channels": 2}
    random = np.random.RandomState(0)
    for number in range(3):
        for channel in ("flair", "t1"):
            array = random.rand(24, 20, 14).astype(np.float32)
            (tmp_path / f"{number}").mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{number}" / f"{number}_{channel}.nii.gz")
    files = [[str(tmp_path / f"{n}" / f"{n}_{channel}.nii.gz") for channel in ("flair", "t1")] for n in range(3)]
    pairs = [(files[number], folders[0] / f"label_{number}.nii.gz") for number in (0, 1)]
    for _, label in pairs:
        mask = np.asarray(nib.load(label).dataobj)
        nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / label.name)
    pairs = [(image, tmp_path / label.name) for image, label in pairs]
    model = simcvd_bundle.train(pairs, output_dir=tmp_path / "run", **settings)
    expected = model.predict(files[2]).probability.as_tensor()
    array = np.stack([np.asarray(nib.load(file).dataobj) for file in files[2]])
    nib.save(nib.Nifti1Image(np.moveaxis(array, 0, -1), np.eye(4)), tmp_path / "all.nii.gz")
    assert expected.shape == (1, 24, 20, 14)
    for image in (tuple(map(Path, files[2])), tmp_path / "2", tmp_path / "all.nii.gz", array):
        torch.testing.assert_close(model.predict(image).probability.as_tensor(), expected)
    with pytest.raises(ValueError, match="the image has 1 channels, but in_channels is 2"):
        model.predict(files[2][:1])
    with pytest.raises(FileNotFoundError, match=r"none\.nii does not exist"):
        model.predict([files[2][0], "none.nii"])


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """The process of somebody else, with choices of its own; gives the calls of ``mallopt``."""
    calls: list[tuple[int, int]] = []
    libc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda name, value: calls.append((name, value)) or 1)
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda _: libc))

    def hook(*_: Any) -> None:
        """The caller's."""

    monkeypatch.setattr(sys, "excepthook", hook)
    cudnn, path = torch.backends.cudnn, [*sys.path]
    monkeypatch.setattr(cudnn, "benchmark", True)
    monkeypatch.setattr(cudnn, "deterministic", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield calls
    try:
        assert calls == []
        assert sys.excepthook is hook
        assert sys.path == path
        assert cudnn.benchmark
        assert not cudnn.deterministic
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_process_stays_the_callers(folders: Folders, tmp_path: Path, process: list[tuple[int, int]]) -> None:
    """Its hook for errors, its allocator, its paths and torch's flags; after a failure too."""
    data, output = folders
    pairs = [(data / f"image_{n}.nii.gz", data / f"label_{n}.nii.gz") for n in (0, 1)]
    simcvd_bundle.train(pairs, output_dir=tmp_path / "run", **SETTINGS)
    simcvd_bundle.Segmenter(output / "model.pt", **SETTINGS)
    with pytest.raises(ValueError, match="do not fit"):
        simcvd_bundle.Segmenter(output / "model.pt", **SETTINGS, in_channels=3)
    with pytest.raises(ValueError, match="cannot be used"):
        simcvd_bundle.train([pairs[0], pairs[1][::-1]], output_dir=tmp_path / "run", **SETTINGS)


def test_a_command_has_the_allocator_keep_memory(run_bundle: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above misses would be no setting of ours otherwise."""
    names: list[int] = []
    libc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda name, _: names.append(name) or 1)
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=lambda _: libc))
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    run_bundle("train.json", **{"validate::dataset::data": []})
    assert names == [memory.M_MMAP_MAX, memory.M_TRIM_THRESHOLD, memory.M_TOP_PAD]


def test_training_writes_below_its_folder_only(folders: Folders, tmp_path: Path) -> None:
    """The bundle's own weights are others' too."""
    bundle = tmp_path / "bundle"
    shutil.copytree(ROOT / "configs", bundle / "configs")
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"shipped")
    before = {path: path.is_file() and path.read_bytes() for path in bundle.rglob("*")}
    pair = (folders[0] / "image_0.nii.gz", folders[0] / "label_0.nii.gz")
    for _ in range(2):
        simcvd_bundle.train([pair], output_dir=tmp_path / "run", bundle_root=bundle, **SETTINGS)
    assert {path: path.is_file() and path.read_bytes() for path in bundle.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "run"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock", "cache", "checkpoints", "cost.json", "latest", "model.pt", "previous_1", "tensorboard",
    ]  # fmt: skip


def test_what_only_a_training_reads_is_no_error_after_it(folders: Folders, tmp_path: Path) -> None:
    """Ids with ``#``, an overlay that changes a part of the training, or that brings an id of its own."""
    overlay = tmp_path / "overlay.json"
    content = {"train#trainer#amp_kwargs": {"enabled": False}, "my_rate": 0.02, "learning_rate": "@my_rate"}
    overlay.write_text(json.dumps(content))
    pair = (folders[0] / "image_0.nii.gz", folders[0] / "label_0.nii.gz")
    settings = {**SETTINGS, "train#trainer#max_epochs": 1, "network_def#dropout": 0.25}
    model = simcvd_bundle.train([pair], output_dir=tmp_path / "run", overlays=[overlay], **settings)
    assert model.network.dropout.p == 0.25  # type: ignore[union-attr]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_1.pt").is_file()
    again = simcvd_bundle.Segmenter(tmp_path / "run" / "model.pt", **settings)
    weights = again.network.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.network.state_dict().items())


def test_a_mistake_of_the_inference_comes_up_before_the_training(folders: Folders, tmp_path: Path) -> None:
    """Without validation the training itself never reads this."""
    pair = (folders[0] / "image_0.nii.gz", folders[0] / "label_0.nii.gz")
    with pytest.raises(ValueError, match="inference_mode must be 'window' or 'fast', got 'slow'"):
        simcvd_bundle.train([pair], output_dir=tmp_path / "run", inference_mode="slow", **SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_prediction_is_on_the_cpu(folders: Folders) -> None:
    model = simcvd_bundle.Segmenter(folders[1] / "model.pt", **{**SETTINGS, "device": "cuda"})
    result = model.predict(folders[0] / "image_6.nii.gz", dropout_samples=2)
    for array in (result.mask, result.probability, result.sdm, result.uncertainty):
        assert array is not None
        assert array.device.type == "cpu"


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
        ("iterations=100", "iterations=2"),
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
