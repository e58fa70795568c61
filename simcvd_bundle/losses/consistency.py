"""Consistency of student and teacher under different perturbations, equation (5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class ConsistencyLoss(nn.Module):
    """Mean squared difference of probabilities plus, with ``include_sdm``, that of the signed distance maps (eq. 5).

    The network F outputs both maps, so both are compared; a plain mean teacher compares probabilities only.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        include_sdm: compare the signed distance maps too.
    """

    def __init__(self, include_sdm: bool = True) -> None:
        super().__init__()
        self.include_sdm = include_sdm

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of two predictions of the same patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``teacher_logits``, detached here; with ``include_sdm`` also
                ``sdm`` ``(B, C, H, W, D)`` and ``teacher_sdm``.
            target: not read.

        Returns:
            Scalar, float32, mean over batch, channels and voxels; 0 for equal predictions.
        """
        loss = F.mse_loss(pred["logits"].softmax(1), pred["teacher_logits"].detach().softmax(1))
        return loss + F.mse_loss(pred["sdm"], pred["teacher_sdm"].detach()) if self.include_sdm else loss
