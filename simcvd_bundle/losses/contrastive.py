"""Boundary-aware contrastive distillation, equation (3)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from simcvd_bundle.losses.info_nce import info_nce
from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


class BoundaryContrastiveLoss(nn.Module):
    """InfoNCE between the student's and the teacher's slice embeddings, in both directions.

    The mean over the positive pairs of ``l(teacher, student) + l(student, teacher)`` (eq. 3), a sum, not an average, of
    the two directions. No gradient reaches the teacher in either of them. The slices of all processes are negatives.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        temperature: tau of eq. (2) (paper: 0.5).

    Raises:
        ValueError: when ``temperature`` is not positive, or the two sets differ in shape, are not ``(N, C)`` or empty.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = positive("BoundaryContrastiveLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of two sets of embeddings.

        Args:
            pred: ``embeddings`` ``(N, C)`` of length 1, and ``teacher_embeddings``, whose row n is the positive of the
                student's row n; detached here.
            target: not read.

        Returns:
            Scalar, float32; ``2 log N`` when all embeddings are equal, 0 when ``N`` is 1.
        """
        student, teacher = pred["embeddings"], pred["teacher_embeddings"].detach()
        return info_nce(student, teacher, self.temperature) + info_nce(teacher, student, self.temperature)
