"""NT-Xent and the loss with keys: naive loops, MONAI's, limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.losses import ContrastiveLoss
from torch import Tensor
from torch.nn import functional as F

from simcvd_bundle.losses import NTXentLoss


def rows(count: int, seed: int, width: int = 5) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def loss(temperature: float = 0.1, **pred: Tensor) -> Tensor:
    value: Tensor = NTXentLoss(temperature)(pred, {})
    return value


def naive_nt_xent(z: list[list[float]], tau: float) -> float:
    """Equation (1) of SimCLR over both orders of every pair (i, N + i)."""
    count, total = len(z), 0.0
    for i in range(count):
        j = (i + count // 2) % count
        similar = [math.exp(sum(a * b for a, b in zip(z[i], z[k], strict=True)) / tau) for k in range(count)]
        total -= math.log(similar[j] / sum(similar[k] for k in range(count) if k != i))
    return total / count


def naive_with_keys(z: list[list[float]], keys: list[list[float]], queue: list[list[float]], tau: float) -> float:
    """Each query finds the key of its partner among the keys of the partners' side and the queue."""
    half, total = len(z) // 2, 0.0
    for i in range(2 * half):
        side = keys[half:] if i < half else keys[:half]
        similar = [math.exp(sum(a * b for a, b in zip(z[i], key, strict=True)) / tau) for key in (*side, *queue)]
        total -= math.log(similar[i % half] / sum(similar))
    return total / (2 * half)


@pytest.mark.parametrize("tau", [0.1, 0.5])
@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_nt_xent_is_the_naive_loop_and_that_of_monai(pairs: int, tau: float) -> None:
    z = rows(2 * pairs, pairs)
    value = loss(tau, embeddings=z)
    torch.testing.assert_close(value, torch.tensor(naive_nt_xent(z.tolist(), tau)))
    torch.testing.assert_close(value, ContrastiveLoss(temperature=tau)(z[:pairs], z[pairs:]))


@pytest.mark.parametrize("queued", [0, 1, 9])
def test_keys_and_queue_are_the_naive_loop(queued: int) -> None:
    z, keys, queue = rows(6, 0), rows(6, 1), rows(queued, 2)
    value = loss(0.2, embeddings=z, keys=keys, queue=queue)
    torch.testing.assert_close(value, torch.tensor(naive_with_keys(z.tolist(), keys.tolist(), queue.tolist(), 0.2)))


def test_equal_embeddings_give_the_logarithm_of_the_number_of_keys() -> None:
    same = F.normalize(torch.ones(8, 4), dim=1)
    assert loss(embeddings=same).item() == pytest.approx(math.log(7))
    assert loss(embeddings=same, keys=same, queue=same[:3]).item() == pytest.approx(math.log(4 + 3))


def test_the_order_of_pairs_does_not_matter_and_of_partners_does() -> None:
    z = rows(8, 3)
    order = torch.tensor([2, 0, 3, 1])
    assert loss(embeddings=z[torch.cat([order, order + 4])]).item() == pytest.approx(
        loss(embeddings=z).item(), rel=1e-5
    )
    assert loss(embeddings=z[torch.cat([torch.arange(4), order + 4])]).item() != pytest.approx(
        loss(embeddings=z).item()
    )


def test_gradient_reaches_the_embeddings_only() -> None:
    z, keys, queue = (rows(4, seed).requires_grad_() for seed in range(3))
    loss(embeddings=z, keys=keys, queue=queue).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    assert keys.grad is None
    assert queue.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_small_temperature_stay_finite(dtype: torch.dtype) -> None:
    z = rows(6, 0).to(dtype).requires_grad_()
    value = loss(1e-3, embeddings=z)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_temperature_must_be_positive(temperature: Any) -> None:
    with pytest.raises(ValueError, match="NTXentLoss: temperature must be positive"):
        NTXentLoss(temperature)
