"""The terms of the compared methods against naive loops over their formulas, and their gradients and limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simcvd_bundle.losses import (
    CrossPseudoSupervisionLoss,
    EntropyLoss,
    MutualConsistencyLoss,
    PyramidConsistencyLoss,
    SegmentationLoss,
    SoftTargetLoss,
    TaskConsistencyLoss,
    UncertaintyMaskedConsistencyLoss,
    ViewDifferenceLoss,
)

CLASSES = 3
Entries = dict[str, Tensor]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prediction() -> Entries:
    """What the terms read, of two patches and two extra outputs."""
    shape = (2, CLASSES, 2, 3, 2)
    return {
        "logits": random(*shape, seed=0),
        "sdm": 0.001 * random(2, CLASSES - 1, 2, 3, 2, seed=1),
        "extra_logits": random(2, 2, *shape[1:], seed=2),
        "teacher_logits": random(*shape, seed=3),
        "teacher_mean": (2 * random(*shape, seed=4)).softmax(1),
        "ramp": torch.tensor(0.4),
    }


Voxel = tuple[int, ...]


def voxels(pred: Entries) -> list[Voxel]:
    return list(product(range(2), range(2), range(3), range(2)))


def channels(entry: Tensor, v: Voxel) -> list[float]:
    return [float(entry[(v[0], c, *v[1:])]) for c in range(entry.shape[1])]


def probability(logits: Tensor, v: Voxel) -> list[float]:
    powers = [math.exp(value) for value in channels(logits, v)]
    return [power / sum(powers) for power in powers]


def outputs(pred: Entries) -> list[Tensor]:
    return [pred["logits"], pred["extra_logits"][:, 0], pred["extra_logits"][:, 1]]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def squared(a: list[float], b: list[float]) -> float:
    return mean([(x - y) ** 2 for x, y in zip(a, b, strict=True)])


def naive_entropy(pred: Entries) -> float:
    return mean(
        [-sum(p * math.log(p) / math.log(CLASSES) for p in probability(pred["logits"], v)) for v in voxels(pred)]
    )


def naive_uncertainty(pred: Entries) -> float:
    threshold = (0.75 + 0.25 * 0.4) * math.log(CLASSES)
    total, count = 0.0, 0
    for v in voxels(pred):
        if -sum(q * math.log(q) for q in channels(pred["teacher_mean"], v)) < threshold:
            p, q = probability(pred["logits"], v), probability(pred["teacher_logits"], v)
            total += sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
            count += 1
    assert 0 < count < len(voxels(pred))
    return total / (CLASSES * count)


def naive_task(pred: Entries) -> float:
    return mean([
        squared([1 / (1 + math.exp(1500 * s)) for s in channels(pred["sdm"], v)], probability(pred["logits"], v)[1:])
        for v in voxels(pred)
    ])  # fmt: skip


def naive_soft_targets(pred: Entries) -> float:
    pairs = [(probability(pred["teacher_logits"], v), probability(pred["logits"], v)) for v in voxels(pred)]
    return mean([-sum(q * math.log(p) for q, p in zip(*pair, strict=True)) for pair in pairs])


def naive_cross(pred: Entries) -> float:
    total = 0.0
    for one, other in permutations(outputs(pred), 2):
        masks = {v: max(range(CLASSES), key=lambda c, v=v: channels(other, v)[c]) for v in voxels(pred)}
        total += mean([-math.log(probability(one, v)[masks[v]]) for v in voxels(pred)])
    return total


def naive_mutual(pred: Entries) -> float:
    total = 0.0
    for one, other in permutations(outputs(pred), 2):
        for v in voxels(pred):
            tenth = [p**10 for p in probability(other, v)]
            total += squared(probability(one, v), [t / sum(tenth) for t in tenth]) / len(voxels(pred))
    return total


def naive_difference(pred: Entries) -> float:
    def entropy(p: list[float]) -> float:
        return -sum(value * math.log(value) for value in p)

    total = []
    for v in voxels(pred):
        views = [probability(output, v) for output in outputs(pred)]
        together = [mean(list(values)) for values in zip(*views, strict=True)]
        total.append(entropy(together) - mean([entropy(view) for view in views]))
    return mean(total)


def naive_pyramid(pred: Entries) -> float:
    losses = []
    for scale in outputs(pred):
        weighted, weights, divergences = [], [], []
        for v in voxels(pred):
            all_scales = [probability(output, v) for output in outputs(pred)]
            m, p = [mean(list(values)) for values in zip(*all_scales, strict=True)], probability(scale, v)
            divergence = sum(a * math.log(a / b) for a, b in zip(m, p, strict=True))
            weighted.append(squared(m, p) * math.exp(-divergence))
            weights.append(math.exp(-divergence))
            divergences.append(divergence)
        losses.append(mean(weighted) / mean(weights) + mean(divergences))
    return mean(losses)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Entries], float], set[str]]] = {
    "entropy": (EntropyLoss, naive_entropy, {"logits"}),
    "uncertainty": (UncertaintyMaskedConsistencyLoss, naive_uncertainty, {"logits"}),
    "task": (TaskConsistencyLoss, naive_task, {"logits", "sdm"}),
    "difference": (ViewDifferenceLoss, naive_difference, {"logits", "extra_logits"}),
    "soft targets": (SoftTargetLoss, naive_soft_targets, {"logits"}),
    "cross": (CrossPseudoSupervisionLoss, naive_cross, {"logits", "extra_logits"}),
    "mutual": (MutualConsistencyLoss, naive_mutual, {"logits", "extra_logits"}),
    "pyramid": (PyramidConsistencyLoss, naive_pyramid, {"logits", "extra_logits"}),
}
"""Of each term its class, its formula, and the entries that get its gradient."""


@pytest.mark.parametrize("name", CASES)
def test_value_is_that_of_the_formula(name: str) -> None:
    make, naive, _ = CASES[name]
    assert float(make()(prediction(), {})) == pytest.approx(naive(prediction()), rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_gradient_reaches_the_student_and_no_teacher(name: str) -> None:
    make, _, expected = CASES[name]
    pred = {key: entry.requires_grad_() for key, entry in prediction().items()}
    make()(pred, {}).backward()
    assert {key for key, entry in pred.items() if entry.grad is not None and entry.grad.abs().sum() > 0} == expected
    assert all(pred[key].grad.isfinite().all() for key in expected)


@pytest.mark.parametrize("name", CASES)
def test_low_precision_and_large_logits_stay_finite(name: str) -> None:
    pred = {key: (100 * entry if "logits" in key else entry).bfloat16() for key, entry in prediction().items()}
    pred["teacher_mean"] = (
        pred["teacher_mean"].argmax(1, keepdim=True).eq(torch.arange(CLASSES).view(-1, 1, 1, 1)).float()
    )
    leaves = {key: entry.requires_grad_() for key, entry in pred.items()}
    with torch.autocast("cpu", torch.bfloat16):
        value = CASES[name][0]()(leaves, {})
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert all(leaves[key].grad.isfinite().all() for key in CASES[name][2])


@pytest.mark.parametrize("name", ["mutual", "pyramid"])
def test_certain_outputs_that_agree_cost_nothing(name: str) -> None:
    logits = 100 * random(2, CLASSES, 2, 3, 2, seed=0).argmax(1, keepdim=True).eq(
        torch.arange(CLASSES).view(-1, 1, 1, 1)
    ).float()  # fmt: skip
    pred = {"logits": logits, "extra_logits": logits[:, None]}
    assert float(CASES[name][0]()(pred, {})) == pytest.approx(0, abs=1e-6)


def test_soft_targets_of_a_temperature_are_those_of_divided_logits() -> None:
    pred = prediction()
    halved = {**pred, **{name: pred[name] / 2 for name in ("logits", "teacher_logits")}}
    assert torch.equal(SoftTargetLoss(2.0)(pred, {}), SoftTargetLoss()(halved, {}))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        SoftTargetLoss(0)


def test_soft_targets_of_whole_scans_are_the_mean_over_scans() -> None:
    """Equation (2) as a loop over scans and classes; a teacher of other classes is an error, also of one alone."""
    student, teacher = random(3, CLASSES, seed=0), random(3, CLASSES, seed=1)
    rows = zip(teacher.softmax(1).tolist(), student.softmax(1).tolist(), strict=True)
    naive = mean([-sum(q * math.log(p) for q, p in zip(*row, strict=True)) for row in rows])
    assert float(SoftTargetLoss()({"logits": student, "teacher_logits": teacher}, {})) == pytest.approx(naive, rel=1e-5)
    for width in (1, CLASSES + 1):
        with pytest.raises(ValueError, match=rf"student are \[3, {CLASSES}\], those of the teacher \[3, {width}\]"):
            SoftTargetLoss()({"logits": student, "teacher_logits": torch.zeros(3, width)}, {})


def test_entropy_lies_between_certain_and_undecided() -> None:
    undecided = torch.zeros(1, CLASSES, 2, 2, 2)
    assert float(EntropyLoss()({"logits": undecided}, {})) == pytest.approx(1)
    undecided[:, 1] = 200
    assert float(EntropyLoss()({"logits": undecided}, {})) == 0


def test_a_teacher_that_is_sure_nowhere_costs_nothing() -> None:
    pred = {**prediction(), "teacher_mean": torch.full((2, CLASSES, 2, 3, 2), 1 / CLASSES)}
    assert float(UncertaintyMaskedConsistencyLoss(0.5, 0.9)(pred, {})) == 0


def test_the_threshold_follows_the_ramp() -> None:
    loss = UncertaintyMaskedConsistencyLoss(0.0, 1.0)
    assert float(loss({**prediction(), "ramp": torch.tensor(0.0)}, {})) == 0
    assert float(loss({**prediction(), "ramp": torch.tensor(1.0)}, {})) > 0


def test_the_map_and_the_mask_have_one_sign() -> None:
    """Inside, a distance is negative and the foreground certain."""
    sdm = torch.tensor([-0.5, 0.5]).view(1, 1, 2, 1, 1)
    logits = torch.cat([sdm, -sdm], 1) * 100
    assert float(TaskConsistencyLoss()({"logits": logits, "sdm": sdm}, {})) == pytest.approx(0, abs=1e-6)
    assert float(TaskConsistencyLoss()({"logits": logits, "sdm": -sdm}, {})) == pytest.approx(1)


def test_segmentation_of_all_outputs_is_a_sum_and_its_parts_have_weights() -> None:
    pred, target = prediction(), {"label": random(2, 1, 2, 3, 2, seed=9).gt(0).float()}
    single = [float(SegmentationLoss()({"logits": logits}, target)) for logits in outputs(pred)]
    assert float(SegmentationLoss(all_outputs=True)(pred, target)) == pytest.approx(sum(single), rel=1e-5)
    assert float(SegmentationLoss()(pred, target)) == pytest.approx(single[0])
    parts = [float(SegmentationLoss(*weights)(pred, target)) for weights in ((1.0, 0.0), (0.0, 1.0))]
    assert mean(parts) == pytest.approx(single[0], rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UncertaintyMaskedConsistencyLoss(-1), "start and end must be at least 0, got -1"),
        (lambda: TaskConsistencyLoss(0), "steepness must be positive, got 0"),
        (lambda: MutualConsistencyLoss(-0.1), "temperature must be positive, got -0.1"),
    ],
)
def test_settings_out_of_range_raise(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
