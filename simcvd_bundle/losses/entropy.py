"""Entropy minimisation: sure predictions wherever they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from simcvd_bundle.utils.precision import in_float32


def entropy(probability: Tensor) -> Tensor:
    """``-sum_c p_c log p_c`` over the classes, the second axis: ``(B, C + 1, *)`` -> ``(B, *)``, in nats."""
    return -(probability * probability.clamp_min(1e-12).log()).sum(1)


class EntropyLoss(nn.Module):
    """Mean over voxels of the entropy of the prediction, divided by its maximum ``log(C + 1)``.

    Source: Vu et al., CVPR 2019, arXiv:1811.12833, in the form that semi-supervised comparisons use.
    """

    reads_teacher = False

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of any patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)``.
            target: not read.

        Returns:
            Scalar in [0, 1], float32; 0 for certain, 1 for undecided predictions.
        """
        logits = pred["logits"]
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean() / math.log(logits.shape[1])
