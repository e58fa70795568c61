"""The difference of several outputs for one image (Duo-SegNet)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simcvd_bundle.losses.outputs import all_logits
from simcvd_bundle.utils.precision import in_float32


class ViewDifferenceLoss(nn.Module):
    """``H(mean_k p_k) - mean_k H(p_k)``, mean over voxels: the Jensen-Shannon divergence of the outputs.

    Source: Peiris et al., MICCAI 2021, arXiv:2108.11154, there with two networks; Qiao et al., ECCV 2018,
    arXiv:1803.05984 (deep co-training).
    """

    reads_teacher = False

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``extra_logits`` ``(B, K, C + 1, H, W, D)``.
            target: not read.

        Returns:
            Scalar, float32; 0 when all outputs agree, at most ``log(K + 1)``.
        """
        single = torch.stack([logits.log_softmax(1) for logits in all_logits(pred)])
        together = single.logsumexp(0) - math.log(len(single))
        divergence = (single.exp() * single).sum(2).mean(0) - (together.exp() * together).sum(1)
        return divergence.mean()
