"""The student's side of a critic: predictions of unlabelled images that pass for those of labelled ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32

LABELED = 1
"""The critic's class of predictions of labelled images; 0 are those of unlabelled ones."""


class AdversarialLoss(nn.Module):
    """Cross-entropy of the critic's judgement with "labelled"; the critic itself gets no gradient of it.

    Source: Li et al., MICCAI 2020, arXiv:2007.10732.

    Args:
        critic: what judges, ``critic(sdm, image)``; ``CriticHandler`` trains it.
    """

    reads_teacher = False

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``sdm`` ``(B, C, H, W, D)`` and ``image`` ``(B, channels, H, W, D)``.
            target: not read.

        Returns:
            Scalar, float32; ``log 2`` where the critic cannot tell.
        """
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        judged = functional_call(self.critic, frozen, (pred["sdm"], pred["image"]))
        return F.cross_entropy(judged, torch.full((len(judged),), LABELED, device=judged.device))
