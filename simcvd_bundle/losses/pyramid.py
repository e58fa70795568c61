"""Consistency of outputs at several scales, trusted where they agree (URPC)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simcvd_bundle.losses.outputs import all_logits
from simcvd_bundle.utils.precision import in_float32


class PyramidConsistencyLoss(nn.Module):
    """``mean_s( mean(|m - p_s|^2 exp(-D_s)) / mean exp(-D_s) + mean D_s )``: every scale s against their mean m.

    ``D_s`` is the divergence ``KL(m, p_s)`` of a voxel, and ``|.|^2`` the mean over its channels.

    Source: Luo et al., MICCAI 2021, arXiv:2012.07042.
    """

    reads_teacher = False

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches; the gradient reaches every scale, through their mean too.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``extra_logits`` ``(B, K, C + 1, H, W, D)``.
            target: not read.

        Returns:
            Scalar, float32; 0 when all scales agree.
        """
        logs = [logits.log_softmax(1) for logits in all_logits(pred)]
        mean = torch.stack([log.exp() for log in logs]).mean(0)
        log_mean = mean.clamp_min(1e-12).log()
        losses = []
        for log in logs:
            divergence = (mean * (log_mean - log)).sum(1)
            trust = torch.exp(-divergence)
            losses.append(((mean - log.exp()).square().mean(1) * trust).mean() / trust.mean() + divergence.mean())
        return torch.stack(losses).mean()
