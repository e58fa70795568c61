"""The equations of the paper as naive Python loops over scalars, against the package."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from tensor_losses import of_tensors
from torch import Tensor
from torch.nn import functional as F

from simcvd_bundle import losses
from simcvd_bundle.data.transforms import SignedDistanceMap

BoundaryContrastiveLoss = of_tensors(losses.BoundaryContrastiveLoss)
ConsistencyLoss = of_tensors(losses.ConsistencyLoss)
PairwiseDistillationLoss = of_tensors(losses.PairwiseDistillationLoss)
RegionSegmentationLoss = of_tensors(losses.RegionSegmentationLoss)
SegmentationLoss = of_tensors(losses.SegmentationLoss)
SignedDistanceLoss = of_tensors(losses.SignedDistanceLoss)

Rows = list[list[float]]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def naive_info_nce(a: Rows, b: Rows, n: int, tau: float) -> float:
    """``l(a_n, b_n)`` of equation (2); the sum runs over all slices of b, the positive among them."""
    return -math.log(math.exp(dot(a[n], b[n]) / tau) / sum(math.exp(dot(a[n], row) / tau) for row in b))


def naive_contrast(student: Rows, teacher: Rows, tau: float) -> float:
    """Equation (3)."""
    pairs = range(len(student))
    both = [naive_info_nce(teacher, student, n, tau) + naive_info_nce(student, teacher, n, tau) for n in pairs]
    return sum(both) / len(both)


def naive_distillation(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Equation (4) of maps ``(B, C, *spatial)``, the mean over voxels in place of the sum."""
    losses = []
    for volume_s, volume_t in zip(student, teacher, strict=True):
        places = list(product(*map(range, volume_s.shape[1:])))
        v_s = [volume_s[(slice(None), *place)].tolist() for place in places]
        v_t = [volume_t[(slice(None), *place)].tolist() for place in places]
        for j in range(len(places)):
            similar = [math.exp(cosine(v_s[j], v_t[k]) / temperature) for k in range(len(places))]
            losses.append(-math.log(similar[j] / sum(similar)))
    return sum(losses) / len(losses)


def softmax_of(logits: Tensor, place: tuple[int, ...]) -> list[float]:
    """Probabilities of all classes at ``place``, the batch index and the spatial ones."""
    values = [float(logits[(place[0], c, *place[1:])]) for c in range(logits.shape[1])]
    return [math.exp(v) / sum(map(math.exp, values)) for v in values]


def places_of(logits: Tensor) -> list[tuple[int, ...]]:
    return list(product(range(len(logits)), *map(range, logits.shape[2:])))


def naive_segmentation(logits: Tensor, label: Tensor) -> float:
    """Mean of cross-entropy and the foreground Dice of UA-MT, the sums running over the whole batch."""
    places = places_of(logits)
    probability = {place: softmax_of(logits, place) for place in places}
    truth = {place: int(label[(place[0], 0, *place[1:])]) for place in places}
    cross_entropy = sum(-math.log(probability[p][truth[p]]) for p in places) / len(places)
    dice = []
    for c in range(1, logits.shape[1]):
        intersection = sum(probability[p][c] for p in places if truth[p] == c)
        squares = sum(probability[p][c] ** 2 for p in places) + sum(truth[p] == c for p in places)
        dice.append(1 - (2 * intersection + 1e-5) / (squares + 1e-5))
    return (cross_entropy + sum(dice) / len(dice)) / 2


def naive_region(logits: Tensor, soft_label: Tensor, region: Tensor) -> float:
    """The same of the voxels of a region that have a target."""
    at = [place for place in places_of(logits) if region[(place[0], 0, *place[1:])]]
    wanted = {p: [float(soft_label[(p[0], c, *p[1:])]) for c in range(logits.shape[1])] for p in at}
    at = [place for place in at if sum(wanted[place]) > 0]
    found = {place: softmax_of(logits, place) for place in at}
    cross_entropy = sum(-y * math.log(q) for p in at for y, q in zip(wanted[p], found[p], strict=True)) / len(at)
    dice = []
    for c in range(1, logits.shape[1]):
        common = sum(found[p][c] * wanted[p][c] for p in at)
        squares = sum(found[p][c] ** 2 + wanted[p][c] ** 2 for p in at)
        dice.append(1 - (2 * common + 1e-5) / (squares + 1e-5))
    return (cross_entropy + sum(dice) / len(dice)) / 2


def naive_sdm(inside: Tensor) -> Tensor:
    """Signed distance map of a 3D mask with voxels on both sides, over all pairs of voxels."""
    places = list(product(*map(range, inside.shape)))
    members = {place for place in places if inside[place]}
    others = set(places) - members
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    outer = {p: min(math.dist(p, q) for q in members) for p in others}
    inner = {p: min(math.dist(p, q) for q in others) for p in members}
    result = torch.empty(inside.shape)
    for place in places:
        if place in others:
            result[place] = outer[place] / max(outer.values())
        elif any(tuple(x + d for x, d in zip(place, step, strict=True)) in others for step in steps):
            result[place] = 0.0
        else:
            result[place] = -inner[place] / max(inner.values())
    return result


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_contrastive_loss_is_equations_2_and_3(tau: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = F.normalize(torch.randn(7, 5, generator=generator), dim=1)
    teacher = F.normalize(student + 0.5 * torch.randn(7, 5, generator=generator), dim=1)
    expected = naive_contrast(student.tolist(), teacher.tolist(), tau)
    assert float(BoundaryContrastiveLoss(tau)(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("shape", [(2, 4, 3, 2, 2), (1, 3, 2, 4), (3, 5, 6)])
def test_distillation_loss_is_equation_4(shape: tuple[int, ...], temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(shape, generator=generator)
    teacher = student + torch.randn(shape, generator=generator)
    expected = naive_distillation(student, teacher, temperature)
    assert float(PairwiseDistillationLoss(temperature)(student, teacher)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("include_sdm", [True, False])
def test_consistency_loss_is_equation_5(include_sdm: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    logits, teacher_logits = torch.randn(2, 2, 3, 3, 2, 2, generator=generator)
    sdm, teacher_sdm = torch.rand(2, 2, 2, 3, 2, 2, generator=generator) * 2 - 1
    squares = [
        (a - b) ** 2
        for place in places_of(logits)
        for a, b in zip(softmax_of(logits, place), softmax_of(teacher_logits, place), strict=True)
    ]
    expected = sum(squares) / len(squares)
    if include_sdm:
        maps = [(a - b) ** 2 for a, b in zip(sdm.flatten().tolist(), teacher_sdm.flatten().tolist(), strict=True)]
        expected += sum(maps) / len(maps)
    result = ConsistencyLoss(include_sdm)(logits, sdm, teacher_logits, teacher_sdm)
    assert float(result) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_segmentation_loss_is_equation_1(num_classes: int) -> None:
    """The two volumes have very different amounts of foreground, so a Dice per volume would differ."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(2, num_classes + 1, 4, 3, 3, generator=generator)
    label = torch.randint(0, num_classes + 1, (2, 1, 4, 3, 3), generator=generator)
    label[1, :, 1:] = 0
    expected = naive_segmentation(logits, label)
    assert float(SegmentationLoss()(logits, label)) == pytest.approx(expected, rel=1e-5)


def test_segmentation_loss_smooths_by_1e_5() -> None:
    """Without foreground and with small probabilities the smoothing is as large as the rest of the fraction."""
    logits = torch.zeros(1, 2, 3, 3, 3)
    logits[:, 0] = 7.0  # probability 9.1e-4, squared and summed 2.2e-5
    label = torch.zeros(1, 1, 3, 3, 3)
    expected = naive_segmentation(logits, label)
    assert 0.3 < expected < 0.4
    assert float(SegmentationLoss()(logits, label)) == pytest.approx(expected, rel=1e-4)


def test_signed_distance_loss_is_equation_1() -> None:
    sdm, target = torch.rand(2, 2, 2, 3, 2, 2, generator=torch.Generator().manual_seed(4)) * 2 - 1
    squares = [(a - b) ** 2 for a, b in zip(sdm.flatten().tolist(), target.flatten().tolist(), strict=True)]
    assert float(SignedDistanceLoss()(sdm, target)) == pytest.approx(sum(squares) / len(squares), rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_signed_distance_map_is_the_all_pairs_distance(seed: int) -> None:
    """Irregular masks that touch the border, one of them with an interior, two classes in one label."""
    noise = torch.rand(8, 7, 6, generator=torch.Generator().manual_seed(seed))
    label = torch.zeros(1, 8, 7, 6)
    label[0, :5, 1:6, :4] = (noise[:5, 1:6, :4] > 0.04).float()
    label[0, 5:, :, 3:] = 2.0 * (noise[5:, :, 3:] > 0.4)
    expected = torch.stack([naive_sdm(label[0] == c) for c in (1, 2)])
    assert expected[0].min() == -1
    assert len(expected[0].unique()) > 5
    torch.testing.assert_close(SignedDistanceMap(num_classes=2)(label), expected)


@pytest.mark.parametrize("pseudo_weight", [0.5, 0.0, 2.0])
def test_region_loss_is_that_of_two_regions(pseudo_weight: float) -> None:
    """With soft targets, and voxels without any in both regions."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 3, 3, 4, 2, generator=generator)
    soft_label = torch.randn(logits.shape, generator=generator).softmax(1)
    soft_label *= torch.rand(2, 1, 3, 4, 2, generator=generator) > 0.3
    pseudo = torch.rand(2, 1, 3, 4, 2, generator=generator) > 0.6
    expected = naive_region(logits, soft_label, ~pseudo) + pseudo_weight * naive_region(logits, soft_label, pseudo)
    assert float(RegionSegmentationLoss(pseudo_weight)(logits, soft_label, pseudo)) == pytest.approx(expected, rel=1e-5)
