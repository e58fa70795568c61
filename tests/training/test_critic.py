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


def handler_of(judge: Critic, learning_rate: float = 1e-4) -> CriticHandler:
    return CriticHandler(judge, torch.optim.Adam(judge.parameters(), learning_rate, betas=(0.9, 0.99)))


def engine(pred: Streams) -> Any:
    return SimpleNamespace(state=SimpleNamespace(output={"pred": pred}))


def test_the_critic_learns_to_tell_and_the_student_pays_for_it() -> None:
    judge, pred = critic(), predictions()
    handler, loss = handler_of(judge, 0.01), AdversarialLoss(judge)
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
    handler_of(judge)(engine(pred))
    assert all(entries["sdm"].grad is None for entries in pred.values())
    judge.zero_grad()
    AdversarialLoss(judge)(pred["unlabeled"], {}).backward()
    grad = pred["unlabeled"]["sdm"].grad
    assert grad is not None
    assert grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in judge.parameters())


def test_state_continues_the_training() -> None:
    """Another handler with the state of critic and optimiser makes the same step."""
    judges, pred = [critic(), critic()], predictions()
    handlers = [handler_of(judge) for judge in judges]
    for _ in range(3):
        handlers[0](engine(pred))
    judges[1].load_state_dict(judges[0].state_dict())
    handlers[1].optimizer.load_state_dict(copy.deepcopy(handlers[0].optimizer.state_dict()))
    for handler in handlers:
        handler(engine(pred))
    assert all(torch.equal(a, b) for a, b in zip(*(judge.parameters() for judge in judges), strict=True))


def masks(extra: bool) -> tuple[Streams, dict[str, dict[str, Tensor]]]:
    """Predictions of two outputs that are sure of the wrong class, and labels."""
    pred = predictions()
    logits = torch.tensor([5.0, -5.0])[None, :, None, None, None].expand(2, 2, 8, 6, 3).clone()
    pred["unlabeled"]["logits"] = pred["labeled"]["logits"] = logits
    if extra:
        pred["unlabeled"]["extra_logits"] = 0.5 * logits[:, None]
    return pred, {"labeled": {"label": torch.ones(2, 1, 8, 6, 3)}}


@pytest.mark.parametrize("extra", [False, True])
def test_labels_are_told_from_the_masks_of_every_output(extra: bool) -> None:
    torch.manual_seed(0)
    judge, (pred, label) = Critic(num_maps=2, in_channels=0, channels=4), masks(extra)
    handler = CriticHandler(judge, torch.optim.Adam(judge.parameters(), 0.01), judged="mask")
    state: Any = SimpleNamespace(state=SimpleNamespace(output={"pred": pred, "label": label}))
    for _ in range(50):
        handler(state)
    image = pred["labeled"]["image"]
    truth = torch.tensor([0.0, 1.0])[None, :, None, None, None].expand(2, 2, 8, 6, 3)
    assert judge(truth, image).argmax(1).tolist() == [1, 1]
    outputs = [pred["unlabeled"]["logits"], *([0.5 * pred["unlabeled"]["logits"]] if extra else [])]
    assert all(judge(logits.softmax(1), image).argmax(1).tolist() == [0, 0] for logits in outputs)
    logits = pred["unlabeled"]["logits"].requires_grad_()
    AdversarialLoss(judge, judged="mask")(pred["unlabeled"], {}).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1].mean() < 0) == (logits.grad[:, 0].mean() > 0)


def test_what_is_judged_is_one_of_two() -> None:
    for make in (lambda: AdversarialLoss(critic(), "masks"), lambda: CriticHandler(critic(), None, "masks")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="judged must be one of sdm, mask, got 'masks'"):
            make()


def test_a_missing_stream_raises() -> None:
    with pytest.raises(ValueError, match="CriticHandler needs the stream unlabeled: set unlabeled_batch_size"):
        handler_of(critic())(engine({"labeled": predictions()["labeled"]}))
