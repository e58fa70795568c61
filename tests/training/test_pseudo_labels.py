"""Pseudo-labels by hand: operators, and the guard of classes that die out."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from simcvd_bundle.training import ArgMax, ClassGuard, Confidence, LargestComponent, Sharpen
from simcvd_bundle.training.pseudo_labels import make_pseudo_label, one_hot

NAMES = {"1": "liver", "2": "tumour"}


def voxels(*rows: list[float]) -> Tensor:
    """Probabilities of voxels in a row as ``(1, C + 1, n, 1, 1)``."""
    return torch.tensor(rows).T[None, :, :, None, None]


def row(probability: Tensor) -> list[list[float]]:
    """The reverse of ``voxels``."""
    return [[round(float(value), 6) for value in voxel] for voxel in probability[0, :, :, 0, 0].T]


def test_arg_max_by_hand() -> None:
    """A voxel without target stays one."""
    soft = voxels([0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0, 0, 0])
    assert row(ArgMax()(soft)) == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_confidence_by_hand() -> None:
    soft = voxels([0.2, 0.5, 0.3], [0.6, 0.1, 0.3])
    assert row(Confidence(0.55)(soft)) == [[0, 0, 0], [0.6, 0.1, 0.3]]
    assert torch.equal(Confidence(0)(soft), soft)


def test_sharpen_by_hand() -> None:
    """p^2 / sum p^2 at T = 1/2."""
    soft = voxels([0.2, 0.5, 0.3], [0, 0, 0], [0, 1, 0])
    assert row(Sharpen(0.5)(soft)) == [[0.105263, 0.657895, 0.236842], [0, 0, 0], [0, 1, 0]]
    torch.testing.assert_close(Sharpen(1.0)(soft), soft)
    torch.testing.assert_close(Sharpen(1e-3)(soft), ArgMax()(soft))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Confidence(1.1), "Confidence: threshold must lie in"),
        (lambda: Sharpen(0.0), "Sharpen: temperature must be positive, got 0.0"),
        (lambda: ClassGuard(NAMES, fraction=1.5), "ClassGuard: fraction must lie in"),
        (lambda: ClassGuard(NAMES, patience=0), "patience be at least 1, got 0.1 and 0"),
    ],
)
def test_values_out_of_range_raise(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_largest_component_of_each_class_and_patch() -> None:
    """Pieces that touch by a corner are one; what is removed becomes background, what had no target keeps none."""
    classes = torch.zeros(2, 1, 6, 6, 3)
    classes[0, 0, :2, 0, 0] = 1
    classes[0, 0, 2, 1, 1] = 1  # by a corner: 3 voxels
    classes[0, 0, 4:, 5, 2] = 1  # 2 voxels
    classes[0, 0, 5, 0, 0] = 2
    classes[1, 0, 4:, 5, 2] = 1  # the largest of this patch
    probability = one_hot(classes, 2)
    probability[0, :, 3, 3, 0] = 0
    result = LargestComponent()(probability)
    expected = classes.clone()
    expected[0, 0, 4:, 5, 2] = 0
    assert torch.equal(result.argmax(1, keepdim=True), expected.long())
    assert result.sum(1).eq(1).sum() == result.sum(1).numel() - 1
    assert torch.equal(result[0, :, 3, 3, 0], torch.zeros(3))
    assert torch.equal(LargestComponent([2])(probability), probability)  # a class of several pieces stays as it is


def test_operators_follow_each_other_on_the_softmax() -> None:
    logits = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    logits.requires_grad_()
    result, probability = make_pseudo_label(logits, [ArgMax(), LargestComponent()])
    torch.testing.assert_close(probability, logits.detach().float().softmax(1))
    assert torch.equal(result, LargestComponent()(ArgMax()(probability)))
    assert result.dtype == torch.float32
    assert not result.requires_grad


# the guard


def scene(found: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ten voxels: chances of class 1 falling from left to right, ``found`` of them so labelled, and labels with 4."""
    chance = torch.linspace(0.4, 0.04, 10)
    probability = torch.stack([1 - chance - 0.1, chance, torch.full((10,), 0.1)])[None, :, :, None, None]
    classes = (torch.arange(10) < found).long().view(1, 1, 10, 1, 1)
    wanted = (torch.arange(10) < 4).long().view(1, 1, 10, 1, 1)
    return one_hot(classes, 2), probability, one_hot(wanted, 2)


def test_the_most_probable_voxels_of_a_vanished_class_lose_their_pseudo_label() -> None:
    """As many as the labels have of it; class 2, of which the labels have none, says nothing."""
    pseudo_label, probability, label = scene(found=0)
    result = ClassGuard(NAMES)(pseudo_label, probability, label)
    assert result.sum(1).flatten().tolist() == [0] * 4 + [1] * 6
    assert torch.equal(result[:, :, 4:], pseudo_label[:, :, 4:])


def test_of_a_scarce_class_what_is_missing() -> None:
    """One of four is too few at 0.5: its voxel stays, the three next ones lose their target."""
    pseudo_label, probability, label = scene(found=1)
    assert torch.equal(ClassGuard(NAMES, fraction=0.25)(pseudo_label, probability, label), pseudo_label)
    result = ClassGuard(NAMES, fraction=0.5)(pseudo_label, probability, label)
    assert result.sum(1).flatten().tolist() == [1] + [0] * 3 + [1] * 6
    assert torch.equal(ClassGuard(NAMES, fraction=0)(*scene(found=0)), scene(found=0)[0])


def test_the_answer_depends_on_the_step_alone_and_the_log_on_steps_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    guard = ClassGuard(NAMES, patience=3)
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.training.pseudo_labels"):
        for found in (0, 0, 4, 0, 0):
            assert torch.equal(guard(*scene(found)), ClassGuard(NAMES)(*scene(found)))
        assert caplog.messages == []
        for found in (0, 0, 4):
            guard(*scene(found))
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith(
        "The class 1 (liver) has vanished from the pseudo-labels: for 3 steps in a row"
    )
    assert caplog.messages[1] == "The class 1 (liver) is back in the pseudo-labels."
