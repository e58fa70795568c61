"""Contrast of bottleneck voxels, and the elastic boundary term, against loops over their formulas."""

from __future__ import annotations

import cmath
import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simcvd_bundle.losses import ElasticBoundaryLoss, VoxelContrastLoss, VoxelToVolumeLoss

SIZE = (2, 3, 2)
PLACES = list(product(range(2), *map(range, SIZE)))


def prediction() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(2, 5, *SIZE, generator=generator),
        "teacher_features": torch.randn(2, 5, *SIZE, generator=generator),
        "teacher_logits": 3 * torch.randn(2, 3, *(2 * size for size in SIZE), generator=generator),
    }


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / a.norm() / b.norm())


def voxel(entry: Tensor, place: tuple[int, ...]) -> Tensor:
    return entry[(place[0], slice(None), *place[1:])]


def classes_of(logits: Tensor) -> dict[tuple[int, ...], int]:
    """Class of each bottleneck voxel: that of the highest mean probability in its 2 x 2 x 2 voxels."""
    q = logits.softmax(1)
    boxes = {p: [slice(2 * i, 2 * i + 2) for i in p[1:]] for p in PLACES}
    return {p: int(q[(p[0], slice(None), *box)].mean((1, 2, 3)).argmax()) for p, box in boxes.items()}


@pytest.mark.parametrize("negatives", ["region", "class"])
def test_a_voxel_finds_the_teachers_among_its_negatives(negatives: str) -> None:
    pred = prediction()
    classes = classes_of(pred["teacher_logits"])
    assert len(set(classes.values())) > 1
    losses = []
    for a in PLACES:
        keys = [b for b in PLACES if b == a or negatives == "region" or classes[a] != classes[b]]
        powers = {
            b: math.exp(cosine(voxel(pred["features"], a), voxel(pred["teacher_features"], b)) / 0.2) for b in keys
        }
        losses.append(-math.log(powers[a] / sum(powers.values())))
    found = VoxelContrastLoss(negatives, 0.2)(pred, {})
    assert float(found) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_a_voxel_finds_its_volume() -> None:
    pred = prediction()
    losses = []
    for a in PLACES:
        means = [pred["teacher_features"][patch].flatten(1).mean(1) for patch in range(2)]
        powers = [math.exp(cosine(voxel(pred["features"], a), mean) / 0.2) for mean in means]
        losses.append(-math.log(powers[a[0]] / sum(powers)))
    assert float(VoxelToVolumeLoss(0.2)(pred, {})) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("loss", [VoxelContrastLoss(), VoxelContrastLoss("class"), VoxelToVolumeLoss()])
def test_only_the_student_learns(loss: torch.nn.Module) -> None:
    pred = {name: entry.requires_grad_() for name, entry in prediction().items()}
    loss(pred, {}).backward()
    assert {name for name, entry in pred.items() if entry.grad is not None} == {"features"}
    assert pred["features"].grad is not None
    assert pred["features"].grad.abs().sum() > 0


def test_without_negatives_the_loss_is_0_and_empty_features_are_finite() -> None:
    pred = prediction()
    one = {name: entry[:1] for name, entry in pred.items()}
    assert float(VoxelToVolumeLoss()(one, {})) == 0
    certain = torch.zeros(1, 3, 4, 6, 4)
    certain[:, 1] = 50
    assert float(VoxelContrastLoss("class")({**one, "teacher_logits": certain}, {})) == 0
    pred["features"] = torch.zeros_like(pred["features"]).requires_grad_()
    VoxelContrastLoss()(pred, {}).backward()
    assert pred["features"].grad is not None
    assert pred["features"].grad.isfinite().all()


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"negatives must be one of region, class .* got 'classes' and 0.1"):
        VoxelContrastLoss("classes")
    for make in (VoxelContrastLoss, VoxelToVolumeLoss):
        with pytest.raises(ValueError, match=r"temperature .*positive, got .*0"):
            make(temperature=0)


def test_the_elastic_term_is_a_sum_over_frequencies() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4)
    logits = torch.randn(1, 2, *shape, generator=generator)
    label = (torch.rand(1, 1, *shape, generator=generator) < 0.5).long()
    difference = (logits.softmax(1)[0, 1] - label[0, 0]).tolist()
    total = 0.0
    for k in product(*map(range, shape)):
        signed = [index if index < size / 2 else index - size for index, size in zip(k, shape, strict=True)]
        radians = [2 * math.pi * index / size for index, size in zip(signed, shape, strict=True)]
        wave = sum(
            difference[x][y][z] * cmath.exp(-1j * (radians[0] * x + radians[1] * y + radians[2] * z))
            for x, y, z in product(*map(range, shape))
        )
        total += math.hypot(*radians) * abs(wave) ** 2 / 24
    found = ElasticBoundaryLoss()({"logits": logits}, {"label": label})
    assert float(found) == pytest.approx(total / 24, rel=1e-4)


def test_far_boundaries_cost_more_and_the_label_itself_nothing() -> None:
    def ball(first: int) -> Tensor:
        label = torch.zeros(1, 1, 16, 8, 8)
        label[:, :, first : first + 4, 2:6, 2:6] = 1
        return label

    def logits(label: Tensor) -> Tensor:
        return (40 * F.one_hot(label[:, 0].long(), 2).movedim(-1, 1).float()).requires_grad_()

    loss, wanted = ElasticBoundaryLoss(), {"label": ball(2)}
    distances = [float(loss({"logits": logits(ball(first))}, wanted).detach()) for first in (2, 3, 4)]
    assert distances[0] == pytest.approx(0, abs=1e-9)
    assert 0 < distances[1] < distances[2]
    flat = torch.zeros(1, 2, 16, 8, 8, requires_grad=True)
    loss({"logits": flat}, wanted).backward()
    assert flat.grad is not None
    assert (flat.grad[0, 1] * (1 - 2 * ball(2)[0, 0])).sum() > 0
