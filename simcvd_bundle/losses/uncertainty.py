"""Consistency where the teacher is sure (UA-MT)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from simcvd_bundle.losses.entropy import entropy
from simcvd_bundle.utils.precision import in_float32


class UncertaintyMaskedConsistencyLoss(nn.Module):
    """``sum_v m_v |p_v - q_v|^2 / ((C + 1) sum_v m_v)``, with ``m_v = 1`` where the teacher's entropy is small.

    ``p`` and ``q`` are the probabilities of student and teacher, the entropy is that of the mean of several noisy
    passes of the teacher, and it is small below ``(start + (end - start) r) log(C + 1)``, ``r`` being the ramp-up.

    Source: Yu et al., MICCAI 2019, arXiv:1907.07034; there with two channels and their ``log 2``.

    Args:
        start: part of the largest entropy that is allowed at first.
        end: the same when the ramp-up is complete.

    Raises:
        ValueError: when one of the two is negative.
    """

    def __init__(self, start: float = 0.75, end: float = 1.0) -> None:
        super().__init__()
        if not min(start, end) >= 0:
            raise ValueError(f"UncertaintyMaskedConsistencyLoss: start and end must be at least 0, got {start}, {end}.")
        self.start = start
        self.end = end

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)``, ``teacher_logits`` and ``teacher_mean``, the mean probability of
                the teacher's passes, both detached here, and the scalar ``ramp``.
            target: not read.

        Returns:
            Scalar, float32; 0 where the teacher is sure of no voxel.
        """
        logits, mean = pred["logits"], pred["teacher_mean"].detach()
        threshold = (self.start + (self.end - self.start) * pred["ramp"]) * math.log(logits.shape[1])
        sure = (entropy(mean) < threshold).float()
        squares = (logits.softmax(1) - pred["teacher_logits"].detach().softmax(1)).square().mean(1)
        return (sure * squares).sum() / sure.sum().clamp_min(1)
