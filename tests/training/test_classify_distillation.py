"""Distillation of a classifier: the student learns from a frozen teacher, and from classes where they are known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Run
from probes import tensors
from torch import Tensor, nn

from simcvd_bundle.inference import ScanInferer
from simcvd_bundle.losses import ClassificationLoss, SoftTargetLoss, WeightedTerms
from simcvd_bundle.networks import VNetEncoder
from simcvd_bundle.utils.errors import root_cause

FILES = ("classify.json", "classify_distillation.json")
CLASSES = ["small", "medium", "large"]


def teacher_network() -> VNetEncoder:
    """Of another size than the student, whose ``base_channels`` are 2."""
    return VNetEncoder(head_widths=[8, 3], base_channels=4)


@pytest.fixture
def settings(subjects_dir: Path, tmp_path: Path) -> dict[str, Any]:
    """A teacher's file, and a datalist of which every other subject of the training has no class."""
    torch.save(teacher_network().state_dict(), tmp_path / "teacher.pt")
    return {
        "dataset_dir": subjects_dir, "datalist": datalist(subjects_dir, tmp_path / "half.json", range(0, 24, 4)),
        "teacher_weights": str(tmp_path / "teacher.pt"), "teacher_def::base_channels": 4,
    }  # fmt: skip


def datalist(subjects_dir: Path, file: Path, hidden: Sequence[int]) -> str:
    """A datalist in which the training scans ``n`` and ``n + 1`` for each n of ``hidden`` have no class."""
    content = json.loads((subjects_dir / "dataset.json").read_text())
    for number in (n + scan for n in hidden for scan in (0, 1)):
        del content["training"][number]["class"]
    file.write_text(json.dumps(content))
    return str(file)


def message(run_bundle: Run, *files: str, **settings: Any) -> str:
    """What a run that fails says."""
    with pytest.raises(Exception) as error:  # noqa: PT011
        run_bundle(*files, **settings)
    return str(root_cause(error.value))


def test_the_student_learns_and_is_evaluated_without_the_teacher(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher_file = Path(settings["teacher_weights"])
    before = teacher_file.read_bytes()
    with caplog.at_level("INFO"):
        get = run_bundle(*FILES, **settings).parser.get_parsed_content
    assert "labeled scans=12, unlabeled scans=12" in caplog.text
    assert re.search(r"Validation val_accuracy of the network after 2 iterations: \d\.\d+", caplog.text)
    assert get("loss").weights == {"classification": 1, "soft_targets": 1}
    logged = get("train::trainer").state.output[0]["loss"]
    assert all(float(logged[f"loss_{name}"]) > 0 for name in ("classification", "soft_targets"))
    assert teacher_file.read_bytes() == before
    trained, teacher = torch.load(teacher_file, weights_only=True), get("teacher")["network"]
    assert all(torch.equal(trained[name], value) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    written = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    assert written.keys() == VNetEncoder(head_widths=[8, 3], base_channels=2).state_dict().keys()
    assert written["head.0.weight"].shape == (8, 32)
    teacher_file.unlink()
    overlay = tmp_path / "evaluating.json"
    overlay.write_text(json.dumps({"run": json.loads((ROOT / "configs" / FILES[0]).read_text())["evaluating"]}))
    run_bundle(*FILES, str(overlay), dataset_dir=settings["dataset_dir"])
    summary = json.loads((tmp_path / "run" / "eval_test" / "summary.json").read_text())
    assert (summary["scans"]["n"], summary["subjects"]["n"]) == (12, 6)


def test_resume_equals_the_uninterrupted_run(run_bundle: Run, settings: dict[str, Any], tmp_path: Path) -> None:
    """Whatever has become of the teacher's file: the checkpoint holds the teacher. Other classes are refused."""
    whole = {**settings, "iterations": 4, "epoch_length": 2, "validate::dataset::data": []}
    run_bundle(*FILES, **whole, output_dir=str(tmp_path / "whole"))
    overlay = tmp_path / "interrupt.json"
    overlay.write_text('{"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": 3}]}')
    parts = {**whole, "output_dir": str(tmp_path / "parts")}
    with pytest.raises(KeyboardInterrupt):
        run_bundle(*FILES, str(overlay), **parts)
    more = datalist(settings["dataset_dir"], tmp_path / "more.json", range(4, 24, 4))
    assert "training cases was" in message(run_bundle, *FILES, **{**parts, "datalist": more}, resume=True)
    torch.manual_seed(1)
    torch.save(teacher_network().state_dict(), settings["teacher_weights"])
    run_bundle(*FILES, **parts, resume=True)
    first, second = (
        tensors(torch.load(tmp_path / name / "checkpoints" / "checkpoint_4.pt", weights_only=True))
        for name in ("whole", "parts")
    )
    assert first.keys() == second.keys()
    assert any(name.startswith(".teacher.") for name in first)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


class Recorded(nn.Module):
    """A linear classifier that keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3)
        self.seen = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        result: Tensor = self.linear(x.flatten(1))
        return result


def test_the_loss_of_a_batch_is_that_of_a_loop_and_its_gradient_the_students() -> None:
    """Two of four scans have a class; both networks see the same images."""
    torch.manual_seed(0)
    student, teacher = Recorded(), nn.ModuleDict({"network": Recorded()})
    images, classes, weights = torch.randn(4, 1, 2, 2, 2), [2, -100, -100, 0], [1.0, 1.0, 3.0]
    loss = WeightedTerms({
        "classification": {"loss": ClassificationLoss(weights), "stream": "scans", "weight": 1.0},
        "soft_targets": {"loss": SoftTargetLoss(2.0), "stream": "scans", "weight": 0.5},
    })  # fmt: skip
    pred = ScanInferer("float32", teacher)({"scans": {"image": images}}, student)
    assert not pred["scans"]["teacher_logits"].requires_grad
    value = loss(pred, {"scans": {"class": torch.tensor(classes)}})
    soft, hard = 0.0, []
    for image, index in zip(images, classes, strict=True):
        p, q = (network.linear(image.flatten()).double() for network in (student, teacher["network"]))
        pairs = zip((q / 2).softmax(0).tolist(), (p / 2).softmax(0).tolist(), strict=True)
        soft -= sum(one * math.log(other) for one, other in pairs) / len(images)
        if index >= 0:
            hard.append((weights[index], -math.log(p.softmax(0)[index])))
    naive = sum(weight * term for weight, term in hard) / sum(weight for weight, _ in hard) + 0.5 * soft
    assert float(value) == pytest.approx(naive, rel=1e-5)
    value.backward()
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert torch.equal(student.seen, images)
    assert torch.equal(teacher["network"].seen, images)
    assert set(ScanInferer("float32")({"scans": {"image": images}}, student)["scans"]) == {"logits"}


@pytest.mark.parametrize(
    ("files", "changes", "expected"),
    [
        (FILES, {"teacher_weights": None}, r"give the trained network that teaches, --teacher_weights"),
        (FILES, {"teacher_weights": "nowhere.pt"}, r"No weights nowhere\.pt"),
        (
            FILES, {"classes": [*CLASSES, "other"], "class_weights": None},
            r"teacher\.pt do not fit .* teacher_def\) .* classes\)\. .*\s*size mismatch for head\.3\.weight",
        ),
        (FILES, {"teacher_def::in_channels": 2}, r"teacher\.pt do not fit .* teacher_def.*\s*.*encoder\.0\.0"),
        (FILES, {"num_labeled": 13}, r"num_labeled is 13, but .* has 12 cases with a `class`"),
        (FILES, {"num_labeled": 2}, r"No training case is of class 'small': .* or set class_weights"),
        (("train.json", FILES[1]), {}, r"soft_targets::stream is 'scans'; there are: labeled, unlabeled"),
        (("classify.json",), {}, r"training_00a\.nii\.gz in section 'training' .* has no `class`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    run_bundle: Run, settings: dict[str, Any], files: tuple[str, ...], changes: dict[str, Any], expected: str
) -> None:
    if len(files) == 1:
        settings = {name: settings[name] for name in ("dataset_dir", "datalist")}
    assert re.search(expected, message(run_bundle, *files, **{**settings, **changes}))


def test_a_teacher_of_other_classes_than_the_student_is_refused(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Also where its file fits ``teacher_def``."""
    torch.save(VNetEncoder(head_widths=[8, 2], base_channels=4).state_dict(), settings["teacher_weights"])
    text = message(run_bundle, *FILES, **settings, **{"teacher_def::head_widths": [8, 2]})
    assert "student are [2, 3], those of the teacher [2, 2]: teacher_def needs the classes of network_def" in text


@pytest.mark.parametrize(
    ("hidden", "changes", "labeled"),
    [((), {}, 24), (range(0, 24, 2), {"class_weights": [1, 1, 1]}, 0), ((), {"num_labeled": 6}, 6)],
)
def test_all_classes_some_or_none_are_enough(
    run_bundle: Run, settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    hidden: Sequence[int], changes: dict[str, Any], labeled: int,
) -> None:  # fmt: skip
    file = datalist(settings["dataset_dir"], tmp_path / "other.json", hidden)
    with caplog.at_level("INFO"):
        workflow = run_bundle(*FILES, **{**settings, **changes, "datalist": file, "validate::dataset::data": []})
    assert f"labeled scans={labeled}, unlabeled scans={24 - labeled}" in caplog.text
    assert ("No unlabeled scan" in caplog.text) == (labeled == 24)
    logged = workflow.parser.get_parsed_content("train::trainer").state.output[0]["loss"]
    assert float(logged["loss_soft_targets"]) > 0
    assert math.isfinite(logged["loss"])
    assert labeled or float(logged["loss_classification"]) == 0


def test_the_overlay_has_at_most_20_lines_and_a_smaller_student_in_a_folder_of_its_own() -> None:
    text = (ROOT / "configs" / FILES[1]).read_text()
    assert len(text.splitlines()) <= 20
    overlay = json.loads(text)
    assert overlay["network_def::base_channels"] == 8
    assert overlay["output_dir"] != json.loads((ROOT / "configs" / FILES[0]).read_text())["output_dir"]
