"""Consistency of the two branches: a signed distance map is a mask, too (DTC)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


class TaskConsistencyLoss(nn.Module):
    """``mean (sigmoid(-k sdm) - p)^2`` over the foreground classes: the map as a mask against the probabilities.

    Source: Luo et al., AAAI 2021, arXiv:2009.04448.

    Args:
        steepness: k, how sharp the border of the mask is.

    Raises:
        ValueError: when it is not positive.
    """

    reads_teacher = False

    def __init__(self, steepness: float = 1500.0) -> None:
        super().__init__()
        self.steepness = positive("TaskConsistencyLoss", "steepness", steepness)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of any patches; the gradient reaches both branches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``sdm`` ``(B, C, H, W, D)``, negative inside.
            target: not read.

        Returns:
            Scalar in [0, 1], float32.
        """
        mask = torch.sigmoid(-self.steepness * pred["sdm"])
        return (mask - pred["logits"].softmax(1)[:, 1:]).square().mean()
