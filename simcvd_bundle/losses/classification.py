"""The classification loss of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class ClassificationLoss(nn.Module):
    """Cross-entropy of one class for each scan, weighted by class: ``sum_i w_i l_i / sum_i w_i``.

    The sums run over the scans of known class.

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
            target: ``class`` ``(B,)``, int64: indices, -100 where the class is not known.

        Returns:
            Scalar, float32; 0 where no scan has a class, or none one of a weight.
        """
        classes, weights = target["class"], self.weights.to(pred["logits"].device)
        total = F.cross_entropy(pred["logits"], classes, weights, reduction="sum")
        weight = (weights[classes.clamp(min=0)] * (classes >= 0)).sum()
        return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)
