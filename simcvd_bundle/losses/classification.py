"""The classification loss of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class ClassificationLoss(nn.Module):
    """Cross-entropy of one class for each scan, weighted by class: ``sum_i w_i l_i / sum_i w_i``.

    Args:
        weights: weight of each class.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of a batch.

        Args:
            pred: ``logits`` ``(B, C)``.
            target: ``class`` ``(B,)``, indices.

        Returns:
            Scalar, float32.
        """
        return F.cross_entropy(pred["logits"], target["class"], self.weights.to(pred["logits"].device))
