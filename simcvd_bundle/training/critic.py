"""The critic's own steps beside those of the student."""

from __future__ import annotations

from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import nn
from torch.nn import functional as F

from simcvd_bundle.losses.adversarial import LABELED, predicted_maps, require_judged
from simcvd_bundle.training.pseudo_labels import one_hot


class CriticHandler:
    """Train a critic to tell labelled from unlabelled patches by their maps, one step an iteration.

    Its step comes after the student's backward pass, which judged with the critic of the iteration before. Predictions
    are detached. Critic and optimiser are state of the run: list both in ``checkpoint``.

    Source: Li et al., MICCAI 2020, arXiv:2007.10732 (Adam, 1e-4); Peiris et al., MICCAI 2021, arXiv:2108.11154.

    Args:
        critic: the critic, ``critic(maps, image)``.
        optimizer: of its parameters.
        judged: one of ``JUDGED``, what it compares.

    Raises:
        ValueError: when ``judged`` is none of them, or a batch lacks one of the two streams.
    """

    def __init__(self, critic: nn.Module, optimizer: torch.optim.Optimizer, judged: str = "sdm") -> None:
        self.critic = critic
        self.optimizer = optimizer
        self.judged = require_judged(judged)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """One step on the predictions of this iteration."""
        output: Any = engine.state.output
        pred = output[CommonKeys.PRED]
        missing = [stream for stream in ("labeled", "unlabeled") if "sdm" not in pred.get(stream, {})]
        if missing:
            raise ValueError(f"CriticHandler needs the stream {missing[0]}: set {missing[0]}_batch_size to at least 1.")
        predicted = predicted_maps(pred["unlabeled"], self.judged)
        if self.judged == "sdm":
            labeled = predicted_maps(pred["labeled"], self.judged)
        else:
            label = output[CommonKeys.LABEL]["labeled"]["label"]
            labeled = one_hot(label, predicted[0].shape[1] - 1), pred["labeled"]["image"]
        maps, images = (torch.cat(pair).detach().float() for pair in zip(predicted, labeled, strict=True))
        truth = torch.full((len(maps),), LABELED)
        truth[: len(predicted[0])] = 1 - LABELED
        self.optimizer.zero_grad()
        F.cross_entropy(self.critic(maps, images), truth.to(maps.device)).backward()  # type: ignore[no-untyped-call]
        for parameter in self.critic.parameters():
            if idist.get_world_size() > 1 and parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad.div_(idist.get_world_size())
        self.optimizer.step()
