"""Every overlay combination trains, has the ids that clients look for, and nothing is silently ignored."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, TERMS, Run
from monai.bundle import ConfigParser, verify_metadata
from torch import nn

import simcvd_bundle
from simcvd_bundle.inference import KeepLargestd

CONFIGS = ROOT / "configs"
DATA, METHODS, ABLATIONS = (
    ["", *sorted(p.name for p in CONFIGS.glob(f"{kind}_*.json"))] for kind in ("data", "method", "ablation")
)
METHODS.remove("method_distillation.json")  # it needs a trained network: test_methods.py
OURS = ("", "method_mean_teacher.json", "method_supervised.json")
"""Methods that weigh SimCVD's terms, so that its ablations mean something to them."""
ALL = [c for c in itertools.product(DATA, METHODS, ABLATIONS) if c[1] in OURS or not c[2]]
SINGLE = [combination for combination in ALL if combination.count("") >= 2]
MULTIPLE = [combination for combination in ALL if combination.count("") < 2]
PLAIN = ("labeled_batch_size", "unlabeled_batch_size", "boundary_map", "head_pool_size", "patch_size", "iterations")
UNSUPERVISED = {"contrastive", "distillation", "consistency"}
SCHEMA = ROOT / "tools" / "meta_schema_20240725.json"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((CONFIGS / name).read_text())
    return content


def check_training(run_bundle: Run, combination: tuple[str, str, str]) -> None:
    overlays = [file for file in combination if file]
    settings: dict[str, Any] = {}
    for file in overlays:
        settings |= load(file)
    fitting: dict[str, Any] = {"validate::dataset::data": []}
    if "head_pool_size" in settings:  # what the overlay sets must not be overridden by the tests' tiny settings
        fitting["head_pool_size"] = settings["head_pool_size"]
    workflow = run_bundle("train.json", *overlays, **fitting)
    assert workflow.check_properties() == []
    get = workflow.parser.get_parsed_content
    terms = get("loss").weights
    expected = {name for name in UNSUPERVISED & terms.keys() if settings.get(f"{name}_weight", 1) > 0}
    logged = get("train::trainer").state.output[0]["loss"]
    active = {name for name in TERMS if logged.get(f"weight_{name}", 0) > 0 and f"loss_{name}" in logged}
    assert active & UNSUPERVISED == expected
    assert ("sdm" in active) == ("sdm" in terms and settings.get("sdm_weight", 1) > 0)
    for name in ("head_dropout", "head_pooling", "head_pool_size", "boundary_map", "class_names", "labeled_batch_size"):
        assert name not in settings or get(name) == settings[name]
    assert get("train::trainer").state.iteration == 2


@pytest.mark.parametrize("combination", SINGLE, ids="+".join)
def test_each_overlay_trains(run_bundle: Run, combination: tuple[str, str, str]) -> None:
    check_training(run_bundle, combination)


@pytest.mark.parametrize("combination", MULTIPLE, ids="+".join)
def test_every_combination_of_overlays_resolves(combination: tuple[str, str, str]) -> None:
    """To the values of its files, the last one first; each file alone trains above."""
    files = ["train.json", *filter(None, combination)]
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / file) for file in files])
    parser["device"] = "cpu"
    parser["train::dataset"] = "$type('NoFiles', (), {'one_piece_classes': lambda self: []})()"
    settings: dict[str, Any] = {}
    for file in files[1:]:
        settings |= load(file)
    for name in ("loss", "head_def", "train::inferer", "validate::inferer", "optimizer"):
        parser.get_parsed_content(name)
    terms = parser.get_parsed_content("loss").weights
    weights = {name: settings[f"{name}_weight"] for name in UNSUPERVISED & terms.keys() if f"{name}_weight" in settings}
    assert weights.items() <= terms.items()
    assert {name: parser.get_parsed_content(name) for name in PLAIN if name in settings} == {
        name: settings[name] for name in PLAIN if name in settings
    }


def test_overlays_only_set_ids_of_the_base_and_knobs_that_they_read() -> None:
    base = set(load("train.json"))
    for file in filter(None, (*DATA, *METHODS, *ABLATIONS)):
        overlay = load(file)
        own = {name for name in overlay if name.split("::")[0].lstrip("+") not in base}
        assert own <= set(re.findall(r"@(\w+)", json.dumps(overlay))), file


def test_what_training_and_inference_share_is_the_same() -> None:
    train, inference = load("train.json"), load("inference.json")
    for name in (
        "network_def",
        "normalize",
        "num_classes",
        "label_values",
        "in_channels",
        "orientation",
        "spacing",
        "strides",
        "kernel_sizes",
        "window_stride",
    ):
        assert train[name] == inference[name], name
    for name in ("class_names", "patch_size"):  # training is the demo by default, inference has the shipped weights
        assert inference[name] == load("data_la.json")[name], name
    assert train["image_transforms"] == inference["preprocessing"]["transforms"]
    inverses = [p["postprocessing"]["transforms"] for p in (train["validate"], inference)]
    first = [{**t[0], "transform": t[0]["transform"].replace("validate::", "")} for t in inverses]
    assert first[0] == first[1]
    assert first[0]["_target_"] == "Invertd"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"iteration": 4}, "'iteration'.*did you mean 'iterations'"),
        ({"train::dataloder": {"num_workers": 0}}, "'train::dataloder'.*did you mean 'train::dataloader'"),
        ({"eval_section": "test"}, "'eval_section'"),
        ({"resume": "false"}, "resume is 'false': write True or False"),
        ({"contrastive_wieght": 0.1}, "did you mean 'contrastive_weight'"),
        ({"bundle_root": "elsewhere"}, "'elsewhere' is not the bundle.*--bundle_root"),
    ],
)
def test_misspelled_overrides_are_errors(run_bundle: Run, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", **overrides)
    assert re.search(message, str(error.value.__cause__))


def test_misspelled_id_of_an_overlay_is_an_error_and_a_helper_id_is_not(run_bundle: Run, tmp_path: Path) -> None:
    overlay = tmp_path / "mine.json"
    overlay.write_text('{"base_weight": 0.3, "contrastive_weight": "$@base_weight / 2"}')
    workflow = run_bundle("train.json", str(overlay))
    assert workflow.parser.get_parsed_content("loss").weights["contrastive"] == 0.15
    overlay.write_text('{"base_weight": 0.3}')
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", str(overlay))
    assert "'base_weight'" in str(error.value.__cause__)


def test_metadata_fits_the_schema(tmp_path: Path) -> None:
    schema = tmp_path / "eval" / "schema.json"
    schema.parent.mkdir()
    shutil.copy(SCHEMA, schema)
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(schema))


def test_metadata_fits_the_package() -> None:
    metadata = load("metadata.json")
    assert metadata["version"] == simcvd_bundle.__version__
    assert metadata["version"] in metadata["changelog"]
    assert f"## {metadata['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    claimed = {
        "monai": metadata["monai_version"], "torch": metadata["pytorch_version"], "numpy": metadata["numpy_version"],
        **metadata["required_packages_version"],
    }  # fmt: skip
    assert {name: pins[name] for name in claimed} == claimed


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_the_deployed_inferer_takes_half_networks(precision: torch.dtype) -> None:
    """Its windows are of the network's type, its probabilities float32."""
    parser = ConfigParser({"imports": ["$import monai"], "patch_size": [4, 4, 4], "window_stride": [2, 2, 2]})
    parser["inferer"] = load("deploy.json")["inferer"]
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 1).to(precision)
    image = torch.rand(1, 1, 6, 4, 4)
    with torch.no_grad():
        result = parser.get_parsed_content("inferer")(image, network)
        expected = network.float()(image).softmax(1)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6 if precision == torch.float32 else 1e-3)


def test_the_deployed_masks_keep_the_largest_pieces_too() -> None:
    """Of the classes that the config names, as ``KeepLargestd`` does; the rest of the mask stays."""
    parser = ConfigParser({"imports": ["$import monai"], "one_piece_classes": [1, 3]})
    parser["postprocessing"] = load("deploy.json")["postprocessing"]
    random = np.random.RandomState(0)
    coarse = torch.from_numpy(random.rand(1, 4, 6, 6, 6)).float()
    pred = nn.functional.interpolate(coarse, scale_factor=3, mode="nearest")[0]
    mask = parser.get_parsed_content("postprocessing")({"pred": pred})["pred"]
    raw = pred.argmax(0, keepdim=True)
    expected = KeepLargestd("pred", [1, 3])({"pred": raw})["pred"]
    assert (expected != raw).any()
    assert torch.equal(torch.as_tensor(mask).long(), expected)
