"""Every method overlay: it trains, continues as if never stopped, and gives a plain network for inference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nibabel as nib
import pytest
import torch
from conftest import ROOT, Run
from probes import tensors

from simcvd_bundle.networks import VNet
from simcvd_bundle.runs.methods import check_target
from simcvd_bundle.runs.weights import load_weights
from simcvd_bundle.utils.errors import root_cause

METHODS = sorted(path.name for path in (ROOT / "configs").glob("method_*.json"))
SHORT: dict[str, Any] = {"iterations": 3, "epoch_length": 1, "validate::dataset::data": []}
TINY_PARTS: dict[str, dict[str, Any]] = {
    "method_sassnet.json": {"critic::channels": 2},
    "method_duo_segnet.json": {"critic::channels": 2},
    # a tiny patch has one voxel at the bottleneck, and no other class
    "method_self_ensembling_contrast.json": {"loss::terms::class_contrast::loss::negatives": "region"},
    "method_local_contrast.json": {"pretrain_iterations": 1, "loss::terms::local_contrast::loss::size": 4},
    "method_atso.json": {"pretrain_iterations": 1, "stage_length": 1},
    "method_bcp.json": {"pretrain_iterations": 1},
    "method_copy_paste.json": {"pretrain_iterations": 1},
}
"""Settings of one method that make it quick, or let each of its stages come."""


@pytest.fixture(autouse=True)
def _teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What distillation distils."""
    weights = tmp_path / "trained.pt"
    torch.save(VNet(base_channels=4).state_dict(), weights)
    monkeypatch.setitem(
        TINY_PARTS, "method_distillation.json", {"teacher_weights": str(weights), "teacher_def::base_channels": 4}
    )


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_as_the_whole_one_and_its_network_segments(
    run_bundle: Run, tmp_path: Path, method: str
) -> None:
    settings = {**SHORT, **TINY_PARTS.get(method, {})}
    overlay = tmp_path / "interrupt.json"
    overlay.write_text('{"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": 2}]}')
    run_bundle("train.json", method, **settings, output_dir=str(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        run_bundle("train.json", method, str(overlay), **settings, output_dir=str(tmp_path / "parts"))
    run = run_bundle("train.json", method, **settings, output_dir=str(tmp_path / "parts"), resume=True)
    whole, parts = (
        tensors(torch.load(tmp_path / name / "checkpoints" / "checkpoint_3.pt", weights_only=True))
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert weights.keys() == VNet(base_channels=2).state_dict().keys()
    plain, student = VNet(base_channels=2).eval(), run.parser.get_parsed_content("network_def").eval()
    load_weights(plain, str(tmp_path / "models" / "model.pt"))
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(image), student(image))


@pytest.mark.slow
def test_a_network_with_extra_outputs_is_evaluated_and_segments(
    run_bundle: Run, dataset_dir: Path, tmp_path: Path
) -> None:
    """With the configs of inference, as MONAI Label's server has them, and with the method's own."""
    run_bundle("train.json", "method_cps.json", **SHORT)
    weights = str(tmp_path / "models" / "model.pt")
    case = str(dataset_dir / "image_6.nii.gz")
    output = str(tmp_path / "masks")
    run_bundle("inference.json", workflow_type="infer", output_dir=output, weights=weights, dataset_dir=case)
    assert nib.load(tmp_path / "masks" / "image_6_seg.nii.gz").shape == (24, 20, 14)  # type: ignore[attr-defined]
    run_bundle("train.json", "method_cps.json", "evaluate.json", output_dir=str(tmp_path / "eval"))
    assert (tmp_path / "eval" / "summary.json").is_file()


@pytest.mark.parametrize("method", METHODS)
def test_an_overlay_has_at_most_20_lines(method: str) -> None:
    assert len((ROOT / "configs" / method).read_text().splitlines()) <= 20


def test_the_terms_of_a_method_tell_it_from_others() -> None:
    """``check_combination`` knows a method by the terms that it adds."""
    overlays = {path.name: json.loads(path.read_text()) for path in (ROOT / "configs").glob("m*_*.json")}
    terms = {name: set(content["+loss::terms"]) for name, content in overlays.items() if "+loss::terms" in content}
    assert len(terms) > 9
    assert [(a, b) for a in terms for b in terms if a != b and terms[a] <= terms[b]] == []


def files(methods: str) -> list[str]:
    names = methods.split("+")
    return [f"{name}.json" if name.startswith("mix_") else f"method_{name}.json" for name in names]


def run_of(run_bundle: Run, *files: str, **settings: Any) -> dict[str, Any]:
    """Terms and weights of the last iteration of a short run."""
    workflow = run_bundle("train.json", *files, **{**SHORT, "iterations": 2, **settings})
    values: dict[str, Any] = workflow.parser.get_parsed_content("train::trainer").state.output[0]["loss"]
    assert all(float(value) == float(value) for value in values.values())
    return values


PUBLISHED = {
    "entropy": {"segmentation": 1, "entropy": 0.1},
    "ua_mt": {"segmentation": 1, "uncertainty_consistency": 0.1},
    "dtc": {"segmentation": 1, "sdm_regression": 0.3, "task_consistency": 1},
    "cps": {"segmentation": 1, "cross_supervision": 0.1},
    "mc_net": {"segmentation": 0.5, "mutual_consistency": 1},
    "ict": {"segmentation": 1, "interpolation_consistency": 0.1},
    "urpc": {"segmentation": 0.25, "pyramid_consistency": 0.1},
    "bcp": {"bcp": 1},
    "atso": {"segmentation": 1, "relabeled": 1},
    "sassnet": {"segmentation": 1, "sdm_regression": 0.3, "adversarial": 0.01},
    "ad_mt": {"segmentation": 1, "pseudo_label": 2},
    "duo_segnet": {"segmentation": 1, "view_difference": 0.4, "adversarial": 0.2},
    "self_ensembling_contrast": {"segmentation": 1, "consistency": 0.1, "class_contrast": 0.1},
    "cvrl": {"segmentation": 1, "consistency": 0.1, "elastic": 0.1, "voxel_contrast": 0.1, "voxel_to_volume": 0.1},
    "distillation": {"segmentation": 1, "soft_targets": 1},
}
"""Terms and weights of each method after its ramp-up."""


@pytest.mark.parametrize("method", PUBLISHED)
def test_terms_and_weights_are_the_published_ones(run_bundle: Run, method: str) -> None:
    overlay = f"method_{method}.json"
    values = run_of(run_bundle, overlay, rampup_length=0, **TINY_PARTS.get(overlay, {}))
    weights = {name.removeprefix("weight_"): value for name, value in values.items() if name.startswith("weight_")}
    assert {name: weight for name, weight in weights.items() if weight > 0} == pytest.approx(PUBLISHED[method])
    assert all(float(values[f"loss_{name}"]) > 0 for name in PUBLISHED[method])


def test_bcp_goes_from_labelled_into_labelled_to_both_ways(run_bundle: Run) -> None:
    """In one run; four patches of each kind are loaded, two and then four of their mixtures seen."""
    workflow = run_bundle("train.json", "method_bcp.json", **SHORT, pretrain_iterations=2)
    loss = workflow.parser.get_parsed_content("loss")
    streams = []
    for loss.iteration in (1, 2, 3):
        streams.append(loss.current_streams())
    assert streams == [{"labeled_mixed"}, {"labeled_mixed"}, {"mixed"}]
    defaults = run_bundle("train.json", "method_bcp.json", **{**SHORT, "iterations": 17, "run": []})
    assert defaults.parser.get_parsed_content("pretrain_iterations") == 2


def test_the_teacher_of_a_stage_learned_from_the_other_half(run_bundle: Run) -> None:
    """By default a quarter of the iterations on labels, then three stages of each half."""
    workflow = run_bundle("train.json", "method_atso.json", **{**SHORT, "iterations": 16, "run": []})
    sampler = workflow.parser.get_parsed_content("train::sampler")
    teacher = workflow.parser.get_parsed_content("train::handlers::2")
    stages = [frozenset(sampler.pool("unlabeled", iteration)) for iteration in range(16)]
    assert [len(cases) for cases in stages[:4]] == [3] * 4
    assert stages[4:] == [stages[4], stages[4], stages[6], stages[6]] * 3
    assert not stages[4] & stages[6]
    assert stages[4] | stages[6] == stages[0]
    assert (teacher.start, teacher.stage_length) == (4, 2)
    loss = workflow.parser.get_parsed_content("loss")
    assert loss.times["relabeled"][0] == 4


def test_a_network_that_teaches_stays_as_it_is(run_bundle: Run, tmp_path: Path) -> None:
    """Of another size than the student, and without dropout; without it the error says what to give."""
    settings = {**SHORT, **TINY_PARTS["method_distillation.json"]}
    teacher = run_bundle("train.json", "method_distillation.json", **settings).parser.get_parsed_content("teacher")
    trained = torch.load(tmp_path / "trained.pt", weights_only=True)
    assert all(torch.equal(trained[name], value) for name, value in teacher["network"].state_dict().items())
    assert not any(module.training for module in teacher["network"].modules())
    with pytest.raises(Exception) as error:  # noqa: PT011
        run_bundle("train.json", "method_distillation.json", **{**settings, "teacher_weights": None})
    assert "give the trained network that teaches, --teacher_weights" in str(root_cause(error.value))


def test_mc_net_plus_is_one_id(run_bundle: Run) -> None:
    decoders = {"network_def::extra_decoders": ["trilinear", "nearest"]}
    workflow = run_bundle("train.json", "method_mc_net.json", **SHORT, **decoders)
    assert len(workflow.parser.get_parsed_content("network_def").extra) == 2


COMBINED = {
    "ua_mt+dtc": {"segmentation", "sdm_regression", "uncertainty_consistency", "task_consistency"},
    "dtc+ua_mt": {"segmentation", "sdm_regression", "uncertainty_consistency", "task_consistency"},
    "sassnet+entropy": {"segmentation", "sdm_regression", "adversarial", "entropy"},
    "mix_copy_paste": {"segmentation", "sdm", "contrastive", "distillation", "consistency", "pasted"},
    "mix_copy_paste+ua_mt": {"segmentation", "uncertainty_consistency", "pasted"},
    "ict+entropy": {"segmentation", "interpolation_consistency", "entropy"},
}


@pytest.mark.parametrize("methods", COMBINED)
def test_independent_methods_combine_in_any_order(run_bundle: Run, methods: str) -> None:
    values = run_of(run_bundle, *files(methods))
    assert {name for name in COMBINED[methods] if values[f"weight_{name}"] > 0} == COMBINED[methods]


def cause(error: pytest.ExceptionInfo[RuntimeError]) -> str:
    return str(error.value.__cause__)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("mc_net+urpc", "method_mc_net and method_urpc exclude each other: both set loss::terms::segmentation::"),
        ("bcp+copy_paste", "method_bcp and method_copy_paste exclude each other: both set pretrain_iterations"),
        ("ict+ua_mt", "method_ict and method_ua_mt exclude each other: both set train::inferer::teacher_views"),
        ("dtc+mc_net", "method_dtc and method_mc_net exclude each other: both set loss::terms::segmentation::loss"),
        ("cps+urpc", "TwinNetwork: its second network is the extra output, so no extra_decoders and scales"),
    ],
)
def test_methods_that_exclude_each_other_say_so(run_bundle: Run, tmp_path: Path, methods: str, message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", *files(methods), **SHORT)
    assert message in str(root_cause(error.value))
    assert not (tmp_path / "cache").exists() or methods == "cps+urpc"


def test_a_part_whose_room_cannot_be_imported_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """In MONAI Label's environment, which is not ours, it was called unknown."""
    missing = ModuleNotFoundError("No module named 'edt'", name="edt")
    monkeypatch.setattr("simcvd_bundle.runs.methods.import_module", Mock(side_effect=missing))
    with pytest.raises(ValueError, match=r"data.A., which needs a package that is missing: No module named .edt"):
        check_target("x", "simcvd_bundle.data.A")


TERM, VIEW = "loss::terms::entropy", "train::views"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"loss::terms::entrpy": {"weight": 0.2}},
            r"terms::entrpy is no complete .*needs loss, stream, weight\) \(did you mean 'entropy'\?\); there are: seg",
        ),
        (
            {f"{TERM}::stream": "unlabelled"},
            r"entropy::stream is 'unlabelled' \(did you mean 'unlabeled'\?\); there are: labeled, unlabeled",
        ),
        (
            {f"{TERM}::loss::_target_": "simcvd_bundle.losses.EntropLoss"},
            r"entropy::loss::_target_ is .*EntropLoss', which there is not \(did you mean 'EntropyLoss'\?\)",
        ),
        ({VIEW: [{"_target_": "simcvd_bundle.training.Noise"}]}, "views::0::_target_ is .* there are: .*GaussianNoise"),
        ({VIEW: [{"_target_": "simcvd_bundle.trainig.Noise"}]}, "trainig.Noise', which there is not"),
        ({"unlabeled_batch_size": 0}, "The term entropy reads the stream 'unlabeled', of which a batch has no patch"),
    ],
)
def test_what_is_wrong_with_a_method_is_told_before_data_is_read(
    run_bundle: Run, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", "method_entropy.json", **SHORT, **settings)
    assert re.search(message, cause(error))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("base", "overlay", "message"),
    [
        ("pretrain.json", "classify_distillation.json", "soft_targets::stream is 'scans'; there are: p"),
        ("classify.json", "method_entropy.json", "entropy::stream is 'labeled'; there are: scans"),
    ],
)
def test_an_overlay_of_another_task_is_named_by_its_term(
    run_bundle: Run, tmp_path: Path, base: str, overlay: str, message: str
) -> None:
    """It ended in an unexpected argument of a function that the user never called."""
    with pytest.raises(RuntimeError) as error:
        run_bundle(base, overlay, iterations=2)
    assert message in cause(error)
    assert not (tmp_path / "cache").exists()


def test_the_documented_method_of_your_own_trains(
    run_bundle: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files as they stand in the document."""
    section = (ROOT / "docs" / "compared_methods.md").read_text().split("## Your own method in 30 lines")[1]
    blocks = dict(re.findall(r"```(python|json)\n(.*?)```", section, re.DOTALL))
    assert sum(block.count("\n") for block in blocks.values()) <= 30
    (tmp_path / "my_losses.py").write_text(blocks["python"])
    (tmp_path / "method_smooth.json").write_text(blocks["json"])
    monkeypatch.syspath_prepend(tmp_path)
    values = run_of(run_bundle, str(tmp_path / "method_smooth.json"), rampup_length=0)
    assert {name: value for name, value in values.items() if name.startswith("weight_") and value > 0} == {
        "weight_segmentation": 1.0,
        "weight_smoothness": 0.01,
    }
    assert float(values["loss_smoothness"]) > 0


def test_the_page_has_a_row_for_every_method() -> None:
    page = (ROOT / "docs" / "compared_methods.md").read_text()
    assert [method for method in METHODS if f"`{method}`" not in page and method != "method_copy_paste.json"] == []
