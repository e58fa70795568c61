"""Boundary-aware contrastive distillation, equations (2) and (3)."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.distributed import gather_rows
from simcvd_bundle.utils.precision import in_float32


class BoundaryContrastiveLoss(nn.Module):
    """InfoNCE between the student's and the teacher's slice embeddings, in both directions.

    With ``l(a_n, b_n) = -log( exp(a_n . b_n / tau) / sum_m exp(a_n . b_m / tau) )`` (eq. 2) the loss is the mean over
    the ``N`` positive pairs of ``l(teacher, student) + l(student, teacher)`` (eq. 3), a sum, not an average, of the two
    directions. No gradient reaches the teacher in either of them.

    With ``gather_negatives`` the sum of eq. (2) runs over the slices of all processes, and each process takes the mean
    over the pairs of its own: the mean over processes is the loss of the whole global batch, in value and gradient.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        temperature: tau (paper: 0.5).
        gather_negatives: take the slices of all processes as negatives; no effect in a single process.

    Raises:
        ValueError: when ``temperature`` is not positive, or the two sets differ in shape, are not ``(N, C)`` or empty.
    """

    def __init__(self, temperature: float = 0.5, gather_negatives: bool = False) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"BoundaryContrastiveLoss: temperature must be positive, got {temperature}.")
        self.temperature = temperature
        self.gather_negatives = gather_negatives

    @in_float32
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Loss of two sets of embeddings.

        Args:
            student: ``(N, C)``; dot products are taken as they are, so normalised by whoever made them.
            teacher: ``(N, C)``, row n is the positive of the student's row n; detached here.

        Returns:
            Scalar, float32; ``2 log N`` when all embeddings are equal, 0 when ``N`` is 1 (``N`` of all processes, if
            gathered).
        """
        if student.dim() != 2 or student.shape != teacher.shape or student.numel() == 0:
            raise ValueError(
                "BoundaryContrastiveLoss expects two equal, non-empty sets of shape (N, C), "
                f"got {list(student.shape)} and {list(teacher.shape)}."
            )
        teacher = teacher.detach()
        students, teachers, first = student, teacher, 0
        if self.gather_negatives:
            students, teachers, first = gather_rows(student), gather_rows(teacher), idist.get_rank() * len(student)
        positives = torch.arange(first, first + len(student), device=student.device)
        to_teachers = F.cross_entropy(student @ teachers.T / self.temperature, positives)
        to_students = F.cross_entropy(teacher @ students.T / self.temperature, positives)
        return to_teachers + to_students
