"""Cross-entropy with sure pseudo-labels; where teachers contradict each other, the surer of them and the student."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32


class PseudoLabelLoss(nn.Module):
    """Mean over voxels of ``[max_c q_c >= threshold] CE(p, argmax q)``.

    Where teachers contradict each other, q is the student's own prediction if its entropy is lower (AD-MT).

    Source: Zhao et al., ECCV 2024, arXiv:2311.17325 (threshold 0.8); Sohn et al., NeurIPS 2020, arXiv:2001.07685
    (FixMatch), whose mean over all voxels, sure or not, it is.

    Args:
        threshold: in [0, 1].

    Raises:
        ValueError: when it is out of its range.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"PseudoLabelLoss: threshold must lie in [0, 1], got {threshold}.")
        self.threshold = threshold

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of mixed unlabelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)``.
            target: ``soft_target``, probabilities of the teachers, the same shape, and ``conflict``
                ``(B, 1, H, W, D)``, bool, where they contradict each other (``CutMix``).

        Returns:
            Scalar, float32; 0 when no voxel is sure.
        """
        q, own = target["soft_target"], pred["logits"].detach().softmax(1)
        surer = torch.special.entr(own).sum(1, keepdim=True) < torch.special.entr(q).sum(1, keepdim=True)
        confidence, classes = torch.where(target["conflict"].bool() & surer, own, q).max(1)
        loss = F.cross_entropy(pred["logits"], classes, reduction="none")
        return (loss * (confidence >= self.threshold)).mean()
