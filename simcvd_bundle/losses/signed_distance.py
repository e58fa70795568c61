"""The regression of signed distance maps, the second supervised term of equation (1)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class SignedDistanceLoss(nn.Module):
    """Mean squared error of the predicted signed distance maps, the second term of eq. (1).

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.
    """

    reads_teacher = False

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of labelled patches.

        Args:
            pred: ``sdm`` ``(B, C, H, W, D)`` in [-1, 1].
            target: ``sdm``, the same of the labels.

        Returns:
            Scalar, float32.
        """
        return F.mse_loss(pred["sdm"], target["sdm"])
