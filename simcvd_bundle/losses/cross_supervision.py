"""Cross pseudo supervision: each output learns from the mask of every other one (CPS)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.losses.outputs import all_logits
from simcvd_bundle.utils.precision import in_float32


class CrossPseudoSupervisionLoss(nn.Module):
    """``sum_(i != j) CE(p_i, argmax p_j)``; masks carry no gradient.

    Source: Chen et al., CVPR 2021, arXiv:2106.01226, there with two networks.
    """

    reads_teacher = False

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``extra_logits`` ``(B, K, C + 1, H, W, D)``.
            target: not read.

        Returns:
            Scalar, float32; a sum over the pairs, a mean over voxels.
        """
        pairs = permutations(all_logits(pred), 2)
        return torch.stack([F.cross_entropy(logits, other.argmax(1)) for logits, other in pairs]).sum()
