"""Mutual consistency: each output against the sharpened probabilities of every other one (MC-Net)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn

from simcvd_bundle.losses.outputs import all_logits
from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


def sharpened(logits: Tensor, temperature: float) -> Tensor:
    """``p^(1 / T)`` normalised to sum 1 over the classes, the second axis, where ``p`` is the softmax of ``logits``."""
    return (logits / temperature).softmax(1)


class MutualConsistencyLoss(nn.Module):
    """``sum_(i != j) mean (p_i - sharpen(p_j))^2``; the sharpened ones are targets and carry no gradient.

    Source: Wu et al., MICCAI 2021, arXiv:2103.02911 (two decoders); MedIA 2022, arXiv:2109.09960 (three).

    Args:
        temperature: T of the sharpening, above 0.

    Raises:
        ValueError: when it is not positive.
    """

    reads_teacher = False

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("MutualConsistencyLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of any patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and ``extra_logits`` ``(B, K, C + 1, H, W, D)``.
            target: not read.

        Returns:
            Scalar, float32; a sum over the pairs, a mean over batch, channels and voxels.
        """
        pairs = permutations(all_logits(pred), 2)
        squares = [
            (one.softmax(1) - sharpened(other.detach(), self.temperature)).square().mean() for one, other in pairs
        ]
        return torch.stack(squares).sum()
