"""Safety: nothing of ours unpickles or unpacks, nothing leaves the output folder, and no file makes parsing crash."""

from __future__ import annotations

import ast
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, Run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from simcvd_bundle.data.cases import CheckedDataset
from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.scans import find_images
from simcvd_bundle.inference.batch import Results
from simcvd_bundle.inference.saving import SaveResultd

SOURCES = [
    path for folder in ("simcvd_bundle", "benchmarks", "tests") for path in sorted((ROOT / folder).rglob("*.py"))
]
UNPICKLING = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "joblib.load", "pandas.read_pickle", "shelve.open",
    "marshal.load", "marshal.loads", "yaml.load", "yaml.unsafe_load",
}  # fmt: skip
UNPACKING = {"shutil.unpack_archive", "extractall", "extract"}
EXECUTING = {"eval", "exec", "compile", "os.system", "os.popen"}
FUZZ: dict[str, Any] = {
    "max_examples": int(os.environ.get("FUZZ_EXAMPLES", "100")), "deadline": None, "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
}  # fmt: skip


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls in a source file by their dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(path: Path) -> list[str]:
    """Calls that run what a file holds, or unpack it."""
    found = []
    for name, call in calls(path):
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        method = name.rpartition(".")[2]
        found += [name] if name in UNPICKLING | EXECUTING or method in ("extractall", "unpack_archive") else []
        found += [name] if name == "torch.load" and options.get("weights_only") != "True" else []
        found += [name] if options.get("allow_pickle", "False") != "False" else []
    return found


def test_no_source_unpickles_unpacks_or_evaluates() -> None:
    """Prepared data come from archives that the user has unpacked; a config's expressions are MONAI's to evaluate."""
    assert len(SOURCES) > 50
    found = {str(path.relative_to(ROOT)): unsafe(path) for path in SOURCES if unsafe(path)}
    assert found == {"simcvd_bundle/data/loader.py": ["pickle.loads"]}  # a batch that the run's own worker has sent


@pytest.mark.parametrize(
    "line", ["torch.load(p)", "torch.load(p, weights_only=False)", "pickle.load(f)", "z.extractall()", "eval(x)",
             "np.load(p, allow_pickle=True)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(line)
    assert unsafe(tmp_path / "a.py")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_user_files_are_not_unpickled(run_bundle: Run, trained_run: Path, tmp_path: Path) -> None:
    """As weights, as a checkpoint, as an image."""
    mark = tmp_path / "executed"
    shutil.copytree(trained_run, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "models" / "model.pt", *(tmp_path / "run" / "checkpoints").iterdir()):
        torch.save({"model": Malicious(mark)}, path)
    np.save(tmp_path / "scan.npy", np.array([Malicious(mark)], dtype=object))
    with pytest.raises(RuntimeError):
        run_bundle("train.json", resume=True)
    with pytest.raises(RuntimeError):
        run_bundle("inference.json", workflow_type="infer", weights=str(tmp_path / "models" / "model.pt"))
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "scan.npy"}]}')
    with pytest.raises(ValueError, match=r"scan\.npy of entry 0 is no image"):
        load_datalist(str(tmp_path), "training")
    with pytest.raises(ValueError, match=r"scan\.npy is no scan"):
        find_images(str(tmp_path / "scan.npy"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["../../escaped.nii.gz", "/tmp/escaped.nii.gz", "..", "../..", "a/../../b.nii", "..\\c.nii.gz", ".nii.gz"]
)
def test_results_stay_in_the_output_folder(tmp_path: Path, name: str) -> None:
    """Whatever the image is called."""
    output = tmp_path / "deep" / "out"
    mask = MetaTensor(torch.zeros(1, 3, 4, 5), meta={"filename_or_obj": name})
    results = Results()
    save = SaveResultd(results, "pred", output_dir=str(output), postfix="seg")
    save({"image": mask, "pred": mask})
    results.finish()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1
    assert files[0].parent == output
    assert not Path("/tmp/escaped_seg.nii.gz").exists()


# fuzzing: what cannot be used is a ValueError or an OSError, which name the file; nothing else, and no crash

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["a.nii.gz", "./a.nii.gz", "b.nii.gz", "../a.nii.gz", "/etc/passwd", "x\0", "", "a.npy"])
ENTRIES = (
    st.dictionaries(st.sampled_from(["image", "label", "fold"]), NAMES | st.lists(NAMES, max_size=3) | JSON) | JSON
)
LISTS = st.dictionaries(
    st.sampled_from(["training", "validation", "test", "name"]), st.lists(ENTRIES, max_size=4) | JSON
)


def parse(folder: Path, number: Any = None) -> None:
    for section in ("training", "unlabeled", "validation", "test"):
        try:
            items = load_datalist(str(folder), section, num_labeled=number)
        except (ValueError, OSError) as error:
            assert str(folder) in str(error)  # noqa: PT017 either outcome is right
        else:
            for item in items:
                images = item["image"] if isinstance(item["image"], list) else [item["image"]]
                assert images
                assert all(Path(image).is_relative_to(folder) for image in images)


@settings(**FUZZ)
@given(content=LISTS, number=st.none() | st.integers(-1, 3))
@example(content={"training": [{"image": "a.nii.gz"}, "b.nii.gz"]}, number=None)
@example(content={"test": ["a.nii.gz", {"image": "b.nii.gz"}]}, number=None)
@example(content={"test": ["a.nii.gz", "b.nii.gz"]}, number=None)
def test_any_datalist_is_read_or_refused(content: Any, number: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for file in ("a.nii.gz", "b.nii.gz", "a.npy"):
            (folder / file).touch()
        (folder / "dataset.json").write_text(json.dumps(content))
        parse(folder, number)


@settings(**FUZZ)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore")))
def test_any_bytes_as_a_datalist_are_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name).resolve() / "dataset.json").write_bytes(content)
        parse(Path(name).resolve())


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Bytes of a small NIfTI file, not compressed."""
    path = tmp_path_factory.mktemp("scan") / "a.nii"
    nib.save(nib.Nifti1Image(np.random.RandomState(0).rand(4, 5, 6).astype(np.float32), np.eye(4)), path)
    return path.read_bytes()


CHANGES = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=8)


@settings(**FUZZ)
@given(changes=CHANGES, length=st.none() | st.integers(0, 900), packed=st.booleans())
def test_any_header_is_read_or_refused(scan: bytes, changes: Any, length: int | None, packed: bool) -> None:
    """Bytes of the header changed, the file cut: a usable volume or a ValueError that names the file."""
    content = bytearray(scan)
    for place, value in changes:
        content[place] = value
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / ("a.nii.gz" if packed else "a.nii")
        path.write_bytes(gzip.compress(bytes(content[:length])) if packed else bytes(content[:length]))
        transform = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
        try:
            item = CheckedDataset([{"image": str(path)}], transform, in_channels=1, num_classes=1)[0]
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 either outcome is right
        else:
            assert item["image"].shape[0] == 1
            assert torch.isfinite(item["image"]).all()


def test_the_readme_says_that_configs_execute_code() -> None:
    """And they do: an expression of an overlay runs."""
    assert "Configs are programs" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert ConfigParser({"a": "$6 * 7"}).get_parsed_content("a") == 42
