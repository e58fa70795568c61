"""Distillation of a frozen teacher's predictions (SimCLRv2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


class SoftTargetLoss(nn.Module):
    """Mean over voxels of ``-sum_c q_c log p_c``, q of the teacher, p of the student, softmaxes at temperature T.

    Source: Chen et al., NeurIPS 2020, arXiv:2006.10029, equation (2), which sums over images; the mean over voxels is
    ours, as for the other terms.

    Args:
        temperature: T.

    Raises:
        ValueError: when ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive("SoftTargetLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``teacher_logits``, the same shape, detached here.
            target: not read.

        Returns:
            Scalar, float32; at least the entropy of the teacher's predictions.
        """
        q = (pred["teacher_logits"].detach() / self.temperature).softmax(1)
        return -(q * (pred["logits"] / self.temperature).log_softmax(1)).sum(1).mean()
