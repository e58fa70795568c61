"""Pair-wise distillation of the encoders' features, equation (4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


class PairwiseDistillationLoss(nn.Module):
    """Every voxel of the student's feature map should be most similar to the same voxel of the teacher's.

    ``-log( exp(cos(v^s_j, v^t_j) / T) / sum_k exp(cos(v^s_j, v^t_k) / T) )`` over the voxels of one volume (eq. 4),
    averaged over voxels and volumes. The paper prints a sum over voxels, about 1350 at 7 x 7 x 5: times beta = 0.1 it
    would drown every other term, so the mean is ours. Cosines are bounded, so with T = 1 and 245 voxels the loss lies
    between 3.53 and 7.50 and cannot reach 0.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        temperature: T (paper: none, that is 1).

    Raises:
        ValueError: when ``temperature`` is not positive, or the maps differ in shape or have no spatial axis.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive("PairwiseDistillationLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of two feature maps.

        Args:
            pred: ``features`` ``(B, C, *spatial)`` and ``teacher_features``, detached here.
            target: not read.

        Returns:
            Scalar, float32.
        """
        student, teacher = pred["features"], pred["teacher_features"].detach()
        if student.dim() < 3 or student.shape != teacher.shape or student.numel() == 0:
            raise ValueError(
                "PairwiseDistillationLoss expects two equal, non-empty feature maps of shape (B, C, *spatial), "
                f"got {list(student.shape)} and {list(teacher.shape)}."
            )
        voxels_student = F.normalize(student.flatten(2), dim=1)
        voxels_teacher = F.normalize(teacher.flatten(2), dim=1)
        cosines = torch.einsum("bcj,bck->bjk", voxels_student, voxels_teacher) / self.temperature
        same_voxel = torch.arange(cosines.shape[1], device=cosines.device).expand(len(cosines), -1)
        return F.cross_entropy(cosines.flatten(0, 1), same_voxel.flatten())
