"""The student-teacher pass of training: what each network sees, and what the terms get."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from probes import Probe, random
from torch import Tensor, nn

from simcvd_bundle.losses import (
    BoundaryContrastiveLoss,
    ConsistencyLoss,
    EntropyLoss,
    PairwiseDistillationLoss,
    WeightedTerms,
)
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet, VNetOutput
from simcvd_bundle.training.student_teacher import StudentTeacherInferer
from simcvd_bundle.training.views import GaussianNoise

STUDENT_KEYS = {"logits", "sdm", "features"}
TEACHER_KEYS = {f"teacher_{name}" for name in STUDENT_KEYS}
EMBEDDINGS = {"embeddings", "teacher_embeddings"}


def streams(inputs: Tensor, labeled: int = 2) -> dict[str, dict[str, Tensor]]:
    """Patches by stream, labelled first."""
    parts = {"labeled": inputs[:labeled], "unlabeled": inputs[labeled:]}
    return {name: {"image": part} for name, part in parts.items() if len(part)}


def probes(head: bool = True, noise: GaussianNoise | None = None, **arguments: Any) -> tuple[Any, Probe, Probe]:
    """An inferer whose heads only flatten the slices, its student and its teacher."""
    student, teacher = Probe(), Probe(0.8)
    views = [noise or GaussianNoise()]
    teachers = nn.ModuleDict({"network": teacher, "head": nn.Flatten()})
    inferer = StudentTeacherInferer(teachers, nn.Flatten() if head else None, views, views, **arguments)
    return inferer, student, teacher


def by_first_value(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].argsort()]


def test_labelled_patches_stay_clean_and_come_first() -> None:
    inferer, student, teacher = probes()
    inputs = random(5, 1, 6, 6, 4)
    pred = inferer(streams(inputs), student)
    assert torch.equal(student.seen[0][:2], inputs[:2])
    assert student.seen[0].shape == inputs.shape
    assert teacher.seen[0].shape == (3, 1, 6, 6, 4)
    assert len(student.seen) == len(teacher.seen) == 1  # one pass each
    for name, output in student.returned[0].entries().items():
        torch.testing.assert_close(pred["labeled"][name], output[:2])
        torch.testing.assert_close(pred["unlabeled"][name], output[2:])
    for name, output in teacher.returned[0].entries().items():
        torch.testing.assert_close(pred["unlabeled"][f"teacher_{name}"], output)


def test_noise_is_clipped_and_drawn_anew_for_each_network() -> None:
    """N(0, 0.1) within +-0.2, that is clipped at two standard deviations, 4.6 % of it."""
    torch.manual_seed(0)
    inferer, student, teacher = probes()
    inputs = torch.zeros(4, 1, 16, 16, 16)
    inferer(streams(inputs), student)
    noises = [student.seen[0][2:], teacher.seen[0]]
    for noise in noises:
        assert float(noise.max()) == pytest.approx(0.2)
        assert float(noise.min()) == pytest.approx(-0.2)
        assert float((noise.abs() >= 0.2).float().mean()) == pytest.approx(0.0455, abs=0.01)
        assert float(noise.std()) == pytest.approx(0.096, abs=0.005)  # of the clipped normal distribution
    assert abs(float((noises[0] * noises[1]).mean())) < 5e-4  # independent


def test_noise_is_an_argument() -> None:
    inferer, student, teacher = probes(noise=GaussianNoise(std=0.0))
    inputs = random(4, 1, 4, 4, 4)
    inferer(streams(inputs), student)
    assert torch.equal(student.seen[0], inputs)
    assert torch.equal(teacher.seen[0], inputs[2:])
    inferer, student, _ = probes(noise=GaussianNoise(std=10.0, clip=3.0))
    inferer(streams(torch.zeros(4, 1, 8, 8, 8)), student)
    assert (float(student.seen[0].min()), float(student.seen[0].max())) == (-3.0, 3.0)


def test_teacher_runs_without_gradient() -> None:
    inferer, student, teacher = probes()
    inputs = random(4, 1, 4, 4, 4)
    pred = inferer(streams(inputs), student)
    assert student.had_grad == [True]
    assert teacher.had_grad == [False]
    assert {key for key, value in pred["unlabeled"].items() if value.requires_grad} == STUDENT_KEYS | {"embeddings"}


@pytest.fixture(scope="module")
def real_pass() -> tuple[VNet, ProjectionHead, nn.ModuleDict, dict[str, Tensor]]:
    """One pass of tiny real networks: student, head, teachers and the prediction."""
    torch.manual_seed(0)
    student, head = VNet(base_channels=2, dropout=0.0), ProjectionHead(pool_size=4, widths=(8, 8, 4))
    teachers = nn.ModuleDict({"network": copy.deepcopy(student), "head": copy.deepcopy(head)})
    noise = [GaussianNoise()]
    inferer = StudentTeacherInferer(teachers, head, noise, noise, precision="float32")
    return student, head, teachers, inferer(streams(random(3, 1, 16, 16, 32), 1), student)["unlabeled"]


@pytest.mark.parametrize("term", ["contrastive", "distillation", "consistency"])
def test_each_term_moves_the_student_and_no_teacher(
    real_pass: tuple[VNet, ProjectionHead, nn.ModuleDict, dict[str, Tensor]], term: str
) -> None:
    """The teacher's parameters do require gradients here: nothing but the inferer keeps them out."""
    student, head, teachers, pred = real_pass
    losses = {
        "contrastive": (BoundaryContrastiveLoss(), ("embeddings", "teacher_embeddings")),
        "distillation": (PairwiseDistillationLoss(), ("features", "teacher_features")),
        "consistency": (ConsistencyLoss(), ("logits", "sdm", "teacher_logits", "teacher_sdm")),
    }
    loss, keys = losses[term]
    modules = nn.ModuleList([student, head, teachers])
    modules.zero_grad()
    loss(pred, {}).backward(retain_graph=True)
    assert student.encoder[0][0].conv.weight.grad is not None
    assert student.encoder[0][0].conv.weight.grad.abs().sum() > 0
    assert (head.mlp[0].weight.grad is not None) == (term == "contrastive")
    assert (student.sdm.weight.grad is not None) == (term != "distillation")
    assert all(p.grad is None for p in teachers.parameters())
    assert not any(pred[key].requires_grad for key in keys if key.startswith("teacher"))


def test_supervised_batch_has_the_supervised_keys_only() -> None:
    inferer, student, teacher = probes()
    inputs = random(3, 1, 4, 4, 4)
    pred = inferer(streams(inputs, labeled=3), student)
    assert {stream: set(entries) for stream, entries in pred.items()} == {"labeled": {"image"} | STUDENT_KEYS}
    assert torch.equal(student.seen[0], inputs)
    assert teacher.seen == []


def test_keys_without_projection() -> None:
    for head, embeddings in ((False, set()), (True, EMBEDDINGS)):
        inferer, student, _ = probes(head=head)
        pred = inferer(streams(random(4, 1, 4, 4, 4)), student)
        assert set(pred["labeled"]) == {"image"} | STUDENT_KEYS
        assert set(pred["unlabeled"]) == {"image"} | STUDENT_KEYS | TEACHER_KEYS | embeddings


def test_a_batch_of_unlabelled_patches_alone() -> None:
    inferer, student, teacher = probes()
    pred = inferer({"unlabeled": {"image": random(2, 1, 4, 4, 4)}}, student)
    assert {stream: set(entries) for stream, entries in pred.items()} == {
        "unlabeled": {"image"} | STUDENT_KEYS | TEACHER_KEYS | EMBEDDINGS
    }
    assert len(student.seen[0]) == len(teacher.seen[0]) == 2


@pytest.mark.parametrize(("boundary_map", "channels"), [("sdm", [1, 2]), ("probability", [1, 2])])
def test_boundary_slices(boundary_map: str, channels: list[int]) -> None:
    """Slice j of volume i lies at row i * D + j and holds image (mean of its channels) plus scaled map, per class."""
    inferer, student, _ = probes(boundary_map=boundary_map, sdm_scale=0.3)
    view = random(2, 2, 5, 6, 3)
    output = student(view, return_all=True)
    slices = inferer.boundary_slices(view, output._asdict())
    assert slices.shape == (2 * 3, 2, 5, 6)
    probability = output.logits.exp() / output.logits.exp().sum(1, keepdim=True)
    for i, j, c in product(range(2), range(3), range(2)):
        added = output.sdm[i, c] if boundary_map == "sdm" else probability[i, channels[c]]
        expected = (view[i, 0, :, :, j] + view[i, 1, :, :, j]) / 2 + 0.3 * added[..., j]
        torch.testing.assert_close(slices[i * 3 + j, c], expected)


def test_embeddings_are_those_of_the_view_each_network_saw() -> None:
    """All slices of the unlabelled patches in some order, the same one for student and teacher."""
    inferer, student, teacher = probes()
    pred = inferer(streams(random(4, 1, 3, 3, 5)), student)["unlabeled"]
    unlabeled = VNetOutput(*(output[2:] for output in student.returned[0].entries().values())).entries()
    own = inferer.boundary_slices(student.seen[0][2:], unlabeled).flatten(1)
    theirs = inferer.boundary_slices(teacher.seen[0], teacher.returned[0].entries()).flatten(1)
    assert pred["embeddings"].shape == pred["teacher_embeddings"].shape == (2 * 5, 2 * 3 * 3)
    torch.testing.assert_close(by_first_value(pred["embeddings"]), by_first_value(own))
    place = torch.cdist(pred["embeddings"], own).argmin(1)
    torch.testing.assert_close(pred["teacher_embeddings"], theirs[place])


def test_each_side_has_its_own_head() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, slices: Tensor) -> Tensor:
            return torch.full((len(slices), 1), self.value)

    teachers = nn.ModuleDict({"network": Probe(), "head": Constant(2.0)})
    pred = StudentTeacherInferer(teachers, Constant(1.0))(streams(random(2, 1, 4, 4, 4), 1), Probe())["unlabeled"]
    assert pred["embeddings"].unique().tolist() == [1.0]
    assert pred["teacher_embeddings"].unique().tolist() == [2.0]


@pytest.mark.parametrize(("num_slices", "expected"), [(3, 3), (10, 10), (99, 10), (None, 10)])
def test_number_of_slices(num_slices: int | None, expected: int) -> None:
    """Drawn without replacement, anew at every call, never more than there are."""
    inferer, student, _ = probes(num_slices=num_slices, noise=GaussianNoise(std=0.0), precision="float32")
    inputs = random(4, 1, 3, 3, 5)
    torch.manual_seed(0)
    first, second = (inferer(streams(inputs), student)["unlabeled"]["embeddings"] for _ in range(2))
    assert len(first.unique(dim=0)) == len(first) == expected
    assert torch.allclose(first, second) == (num_slices is None)  # all of them come in the order of the batch


def test_bfloat16_runs_the_networks_low_and_the_rest_in_float32() -> None:
    torch.manual_seed(0)
    student, head = VNet(base_channels=1), ProjectionHead(pool_size=4, widths=(8, 8, 4))
    teachers = nn.ModuleDict({"network": copy.deepcopy(student), "head": copy.deepcopy(head)})
    inferer = StudentTeacherInferer(teachers, head, precision="bfloat16")
    pred = inferer(streams(random(3, 1, 16, 16, 16), 1), student)["unlabeled"]
    assert {pred[key].dtype for key in ("logits", "sdm", "teacher_logits", "teacher_sdm")} == {torch.bfloat16}
    assert {pred[key].dtype for key in EMBEDDINGS} == {torch.float32}
    assert all(value.isfinite().all() for value in pred.values())


def test_unknown_boundary_map_raises() -> None:
    with pytest.raises(ValueError, match="boundary_map must be 'sdm' or 'probability', got 'logits'"):
        probes(boundary_map="logits")


@pytest.mark.parametrize("arguments", [{"sdm_scale": -1.0}, {"num_slices": 0}, {"teacher_samples": -1}])
def test_numbers_out_of_range_raise(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sdm_scale and teacher_samples must be at least 0 and num_slices at least 1"):
        probes(**arguments)


def test_each_network_has_views_of_its_own() -> None:
    """One after the other; the image of the boundary map is what the network saw."""

    def plus(value: float) -> Any:
        return lambda images: {name: image + value for name, image in images.items()}

    def times(value: float) -> Any:
        return lambda images: {name: image * value for name, image in images.items()}

    student, teachers = Probe(), nn.ModuleDict({"network": Probe(), "head": nn.Flatten()})
    inferer = StudentTeacherInferer(teachers, nn.Flatten(), [plus(1), times(2)], [times(3)], sdm_scale=0.0)
    images = torch.ones(2, 1, 2, 2, 2)
    pred = inferer(streams(images, 1), student)["unlabeled"]
    assert (student.seen[0].unique().tolist(), teachers["network"].seen[0].unique().tolist()) == ([4.0], [3.0])
    assert (pred["embeddings"].unique().tolist(), pred["teacher_embeddings"].unique().tolist()) == ([4.0], [3.0])
    assert images.unique().tolist() == [1.0]


# mixes and the streams that are read


def term(stream: str, **times: int) -> dict[str, Any]:
    return {"loss": nn.Identity(), "stream": stream, "weight": 1.0, **times}


def test_a_mix_makes_a_stream_of_labels_views_and_the_teacher() -> None:
    """It comes after the teacher's pass and before the student's, which is one pass for all streams."""
    seen: dict[str, Any] = {}

    def mix(batch: Any) -> dict[str, Tensor]:
        seen.update(batch)
        assert not torch.is_grad_enabled()
        assert teacher.returned
        assert not student.seen
        return {"image": batch["unlabeled"]["image"] + 1, "target": batch["labeled"]["label"]}

    inferer, student, teacher = probes(mixes={"mixed": mix})
    batch = streams(random(5, 1, 4, 4, 4))
    batch["labeled"]["label"] = torch.ones(2, 1, 4, 4, 4)
    pred = inferer(batch, student)
    assert set(seen["labeled"]) == {"image", "label"}
    assert set(seen["unlabeled"]) == {"image"} | TEACHER_KEYS
    assert torch.equal(seen["unlabeled"]["image"], pred["unlabeled"]["image"])
    assert list(pred) == ["labeled", "unlabeled", "mixed"]
    assert set(pred["mixed"]) == {"image", "target"} | STUDENT_KEYS
    (passed,) = student.seen
    assert torch.equal(passed, torch.cat([entries["image"] for entries in pred.values()]))
    for name, output in student.returned[0].entries().items():
        torch.testing.assert_close(pred["mixed"][name], output[5:])


@pytest.mark.parametrize(
    ("terms", "expected", "student_patches", "teacher_patches"),
    [
        (["labeled"], ["labeled"], 2, 0),
        (["unlabeled"], ["unlabeled"], 3, 3),
        (["mixed"], ["mixed"], 3, 3),
        (["labeled", "mixed"], ["labeled", "mixed"], 5, 3),
    ],
)
def test_a_stream_that_no_term_reads_costs_nothing(
    terms: list[str], expected: list[str], student_patches: int, teacher_patches: int
) -> None:
    loss = WeightedTerms({stream: term(stream) for stream in terms})
    mixes = {"mixed": lambda batch: {"image": batch["unlabeled"]["image"]}}
    inferer, student, teacher = probes(mixes=mixes, loss=loss)
    pred = inferer(streams(random(5, 1, 4, 4, 4)), student)
    assert list(pred) == expected
    assert [len(images) for images in student.seen] == [student_patches]
    assert sum(len(images) for images in teacher.seen) == teacher_patches


def test_streams_follow_the_time_of_their_terms() -> None:
    loss = WeightedTerms({"first": term("labeled", until=2), "second": term("unlabeled", **{"from": 2})})
    inferer, student, _ = probes(loss=loss)
    seen = []
    for loss.iteration in (1, 2, 3, 9):
        seen.append(list(inferer(streams(random(5, 1, 4, 4, 4)), student)))
    assert seen == [["labeled"], ["labeled"], ["unlabeled"], ["unlabeled"]]


def test_further_passes_of_the_teacher_have_noise_of_their_own() -> None:
    inferer, _, teacher = probes(teacher_samples=3, precision="float32")
    pred = inferer(streams(random(4, 1, 4, 4, 4)), Probe())["unlabeled"]
    assert len(teacher.seen) == 4
    assert all(not torch.equal(a, b) for a, b in zip(teacher.seen, teacher.seen[1:], strict=False))
    expected = sum(output.logits.softmax(1) for output in teacher.returned[1:]) / 3
    torch.testing.assert_close(pred["teacher_mean"], expected)
    assert teacher.had_grad == [False] * 4
    torch.testing.assert_close(pred["teacher_logits"], teacher.returned[0].logits)


def test_no_teacher_runs_where_no_term_reads_it() -> None:
    loss = WeightedTerms({
        "entropy": {"loss": EntropyLoss(), "stream": ["labeled", "unlabeled"], "weight": 0.1},
        "consistency": {"loss": ConsistencyLoss(), "stream": "unlabeled", "weight": 0},
    })  # fmt: skip
    inferer, student, teacher = probes(loss=loss)
    pred = inferer(streams(random(4, 1, 4, 4, 4)), student)
    assert teacher.seen == []
    assert len(student.seen[0]) == 4
    assert set(pred["unlabeled"]) == {"image"} | STUDENT_KEYS
    assert float(loss(pred, {})) > 0
