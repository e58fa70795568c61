"""The segmentation loss of patches that are labelled in one region and pseudo-labelled in the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32

SMOOTH = 1e-5


class RegionSegmentationLoss(nn.Module):
    """``L(labelled region) + w L(pseudo-labelled region)``, ``L`` the mean of cross-entropy and Dice of the region.

    Each region has means of its own over all its voxels in the batch, so the pseudo-labels weigh ``w`` whatever the
    size of the box. Dice has the conventions of ``SegmentationLoss``: foreground classes, squared denominators, the
    whole batch at once, smoothed by 1e-5. Patches that are labelled throughout get the loss of ``SegmentationLoss``. A
    region without a voxel gives 0.

    Source: Bai et al., CVPR 2023, arXiv:2305.00673 (w 0.5; its Dice includes the background).

    Args:
        pseudo_weight: w, at least 0.

    Raises:
        ValueError: when it is no number of at least 0.
    """

    def __init__(self, pseudo_weight: float = 0.5) -> None:
        super().__init__()
        if not pseudo_weight >= 0:
            raise ValueError(f"RegionSegmentationLoss: pseudo_weight must be at least 0, got {pseudo_weight}.")
        self.pseudo_weight = pseudo_weight

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of mixed patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)``.
            target: ``soft_label``, target probabilities of the same shape, all 0 at a voxel without target, which then
                does not count; and ``pseudo`` ``(B, 1, H, W, D)``, true where the target is a pseudo-label.

        Returns:
            Scalar, float32.
        """
        soft_label, pseudo = target["soft_label"], target["pseudo"].bool()
        log_probability = F.log_softmax(pred["logits"], 1)
        labeled = self._of_region(log_probability, soft_label * ~pseudo)
        return labeled + self.pseudo_weight * self._of_region(log_probability, soft_label * pseudo)

    @staticmethod
    def _of_region(log_probability: Tensor, soft_label: Tensor) -> Tensor:
        """(Cross-entropy + Dice) / 2 of the voxels that have a target."""
        counts = soft_label.sum(1, keepdim=True)  # 1 in the region, 0 elsewhere
        cross_entropy = -(soft_label * log_probability).sum() / counts.sum().clamp(min=1)
        probability, wanted = (log_probability.exp() * counts)[:, 1:], soft_label[:, 1:]
        over = (0, *range(2, soft_label.dim()))
        common, sizes = (probability * wanted).sum(over), (probability**2 + wanted**2).sum(over)
        dice = 1 - torch.mean((2 * common + SMOOTH) / (sizes + SMOOTH))
        return (cross_entropy + dice) / 2
