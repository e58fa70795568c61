"""Consistency of a prediction for a mixed patch with the mixed predictions (ICT)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class InterpolationConsistencyLoss(nn.Module):
    """``mean (p(mix(x_i, x_j)) - mix(q_i, q_j))^2``, p of the student, q of the teacher.

    Source: Verma et al., IJCAI 2019, arXiv:1903.03825.
    """

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of mixed patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)``.
            target: ``soft_target``, mixed probabilities of the same shape, detached here.

        Returns:
            Scalar, float32, mean over batch, channels and voxels.
        """
        return F.mse_loss(pred["logits"].softmax(1), target["soft_target"].detach())
