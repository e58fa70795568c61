"""The critic's own steps beside those of the student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from monai.utils import CommonKeys
from torch import nn
from torch.nn import functional as F

from simcvd_bundle.losses.adversarial import LABELED


class CriticHandler:
    """Train a critic to tell predictions of labelled from those of unlabelled patches, one step an iteration.

    Its step comes after the student's backward pass, which judged with the critic of the iteration before. Predictions
    are detached. Critic and optimiser are state of the run: list the handler in ``checkpoint``.

    Source: Li et al., MICCAI 2020, arXiv:2007.10732 (Adam, 1e-4).

    Args:
        critic: the critic, ``critic(sdm, image)``.
        learning_rate: of its Adam.

    Raises:
        ValueError: when the learning rate is not positive, or a batch lacks one of the two streams.
    """

    def __init__(self, critic: nn.Module, learning_rate: float = 1e-4) -> None:
        if not learning_rate > 0:
            raise ValueError(f"CriticHandler: learning_rate must be positive, got {learning_rate}.")
        self.critic = critic
        self.optimizer = torch.optim.Adam(critic.parameters(), learning_rate, betas=(0.9, 0.99))

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
        kinds = {"unlabeled": 1 - LABELED, "labeled": LABELED}
        maps, images = (
            torch.cat([pred[stream][entry].detach().float() for stream in kinds]) for entry in ("sdm", "image")
        )
        truth = torch.cat([torch.full((len(pred[stream]["sdm"]),), kind) for stream, kind in kinds.items()])
        self.optimizer.zero_grad()
        F.cross_entropy(self.critic(maps, images), truth.to(maps.device)).backward()  # type: ignore[no-untyped-call]
        for parameter in self.critic.parameters():
            if idist.get_world_size() > 1 and parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad.div_(idist.get_world_size())
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Critic and optimiser."""
        return {"critic": self.critic.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
