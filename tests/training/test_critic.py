"""A critic learns to tell two kinds of predictions, and the student's side leaves it alone."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from simcvd_bundle.losses import AdversarialLoss
from simcvd_bundle.networks import Critic
from simcvd_bundle.training import CriticHandler

Streams = dict[str, dict[str, Tensor]]


def predictions() -> Streams:
    """Maps of the two kinds that differ, and images that do not."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 8, 6, 3, generator=generator)
    return {
        "labeled": {"sdm": torch.full((2, 1, 8, 6, 3), 0.5), "image": image},
        "unlabeled": {"sdm": torch.full((2, 1, 8, 6, 3), -0.5), "image": image},
    }


def critic() -> Critic:
    torch.manual_seed(0)
    return Critic(num_maps=1, channels=4)


def engine(pred: Streams) -> Any:
    return SimpleNamespace(state=SimpleNamespace(output={"pred": pred}))


def test_the_critic_learns_to_tell_and_the_student_pays_for_it() -> None:
    judge, pred = critic(), predictions()
    handler, loss = CriticHandler(judge, 0.01), AdversarialLoss(judge)
    before = float(loss(pred["unlabeled"], {}).detach())
    for _ in range(50):
        handler(engine(pred))
    classes = {stream: judge(entries["sdm"], entries["image"]).argmax(1).tolist() for stream, entries in pred.items()}
    assert classes == {"labeled": [1, 1], "unlabeled": [0, 0]}
    assert before == pytest.approx(math.log(2), rel=0.2)
    assert float(loss(pred["unlabeled"], {})) > 2 > float(loss(pred["labeled"], {}))


def test_each_side_sends_gradient_to_its_own_network_only() -> None:
    judge, pred = critic(), predictions()
    for entries in pred.values():
        entries["sdm"].requires_grad_()
    CriticHandler(judge)(engine(pred))
    assert all(entries["sdm"].grad is None for entries in pred.values())
    judge.zero_grad()
    AdversarialLoss(judge)(pred["unlabeled"], {}).backward()
    grad = pred["unlabeled"]["sdm"].grad
    assert grad is not None
    assert grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())


def test_state_continues_the_training() -> None:
    """A handler that takes over makes the same step, its optimiser's moments included."""
    judges, pred = [critic(), critic()], predictions()
    handlers = [CriticHandler(judge) for judge in judges]
    for _ in range(3):
        handlers[0](engine(pred))
    handlers[1].load_state_dict(copy.deepcopy(handlers[0].state_dict()))
    for handler in handlers:
        handler(engine(pred))
    assert all(torch.equal(a, b) for a, b in zip(*(judge.parameters() for judge in judges), strict=True))


def test_a_missing_stream_and_a_bad_rate_raise() -> None:
    with pytest.raises(ValueError, match="CriticHandler needs the stream unlabeled: set unlabeled_batch_size"):
        CriticHandler(critic())(engine({"labeled": predictions()["labeled"]}))
    with pytest.raises(ValueError, match="learning_rate must be positive, got 0"):
        CriticHandler(critic(), 0)
