"""Mixup: the formula by hand, its random numbers, and what cannot be mixed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simcvd_bundle.losses import InterpolationConsistencyLoss
from simcvd_bundle.training import Mixup


def batch(patches: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        "unlabeled": {
            "image": torch.randn(patches, 2, 3, 2, 2, generator=generator),
            "teacher_logits": torch.randn(patches, 3, 3, 2, 2, generator=generator),
        }
    }


def test_image_and_target_are_mixed_by_one_factor_a_pair() -> None:
    torch.manual_seed(0)
    given = batch(5)["unlabeled"]
    mixed = Mixup(alpha=1.0)({"unlabeled": given})
    assert {name: len(entry) for name, entry in mixed.items()} == {"image": 2, "soft_target": 2}
    probability = given["teacher_logits"].softmax(1)
    factors = []
    for i in range(2):
        a, b = given["image"][i], given["image"][i + 2]
        factors.append(float(((mixed["image"][i] - b) / (a - b)).mean()))
        assert torch.allclose(mixed["image"][i], factors[i] * a + (1 - factors[i]) * b, atol=1e-5)
        expected = factors[i] * probability[i] + (1 - factors[i]) * probability[i + 2]
        assert torch.allclose(mixed["soft_target"][i], expected, atol=1e-5)
    assert 0 < min(factors) < max(factors) < 1
    torch.manual_seed(1)
    assert not torch.equal(Mixup(alpha=1.0)({"unlabeled": given})["image"], mixed["image"])


def test_a_small_alpha_leaves_most_pairs_nearly_unmixed() -> None:
    torch.manual_seed(0)
    entries = {"image": torch.cat([torch.ones(500, 1, 1, 1, 1), torch.zeros(500, 1, 1, 1, 1)]),
               "teacher_logits": torch.zeros(1000, 2, 1, 1, 1)}  # fmt: skip
    factors = Mixup(alpha=0.2)({"unlabeled": entries})["image"].flatten()
    assert float(factors.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(factors.var()) == pytest.approx(1 / (4 * 1.4), abs=0.02)  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_the_loss_is_a_mean_square_and_its_target_carries_no_gradient() -> None:
    logits = torch.tensor([0.0, 0.0]).view(1, 2, 1, 1, 1).requires_grad_()
    target = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = InterpolationConsistencyLoss()({"logits": logits}, {"soft_target": target})
    assert float(loss.detach()) == pytest.approx(0.16)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert target.grad is None


def test_what_cannot_be_mixed_raises() -> None:
    with pytest.raises(ValueError, match="at least two unlabelled patches, got 1: set unlabeled_batch_size to 2"):
        Mixup()(batch(1))
    with pytest.raises(ValueError, match="at least two unlabelled patches, got 0"):
        Mixup()({})
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        Mixup(0)
