"""The regression of signed distance maps, the second supervised term of equation (1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class SignedDistanceLoss(nn.Module):
    """Mean squared error of the predicted signed distance maps, the second term of eq. (1)."""

    @in_float32
    def forward(self, sdm: Tensor, target: Tensor) -> Tensor:
        """Loss of labelled patches; both ``(B, C, H, W, D)`` in [-1, 1]. Returns a float32 scalar."""
        return F.mse_loss(sdm, target)
