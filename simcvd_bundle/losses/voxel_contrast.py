"""Contrast of bottleneck voxels: the student's with the teacher's voxels or with whole volumes."""

from __future__ import annotations

from collections.abc import Mapping

import ignite.distributed as idist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.losses.info_nce import info_nce
from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.distributed import gather_rows
from simcvd_bundle.utils.precision import in_float32

NEGATIVES = ("region", "class")


def voxel_vectors(features: Tensor) -> Tensor:
    """``(B, channels, h, w, d)`` -> ``(B * h * w * d, channels)``, of length 1."""
    return F.normalize(features.movedim(1, -1).flatten(0, -2), dim=1)


class VoxelContrastLoss(nn.Module):
    """InfoNCE of the student's bottleneck voxels: the teacher's voxel of the same place is the positive.

    Negatives are the teacher's voxels at all other places of all patches (``region``), or only those of another class
    by the teacher's prediction, averaged over the bottleneck voxel (``class``), so voxels of one organ are not pushed
    apart. No gradient reaches the teacher.

    Source: Xiang et al., arXiv:2105.12924 (region-aware, anatomy-aware); You et al., arXiv:2105.07059 (voxel-to-voxel).

    Args:
        negatives: one of ``NEGATIVES``.
        temperature: of the softmax, above 0.

    Raises:
        ValueError: when one of the two is out of its range.
    """

    def __init__(self, negatives: str = "region", temperature: float = 0.1) -> None:
        super().__init__()
        if negatives not in NEGATIVES or not temperature > 0:
            raise ValueError(
                f"VoxelContrastLoss: negatives must be one of {', '.join(NEGATIVES)} and temperature positive, got "
                f"{negatives!r} and {temperature}."
            )
        self.negatives = negatives
        self.temperature = temperature

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``features`` ``(B, channels, h, w, d)``, ``teacher_features``, the same shape, and for ``class``
                ``teacher_logits`` ``(B, C + 1, H, W, D)``.
            target: not read.

        Returns:
            Scalar, float32; 0 for a voxel that has no negative.
        """
        queries, keys = (voxel_vectors(pred[name]) for name in ("features", "teacher_features"))
        excluded = None
        if self.negatives == "class":
            q = pred["teacher_logits"].softmax(1)
            height, width, depth = pred["features"].shape[2:]
            classes = F.adaptive_avg_pool3d(q, (height, width, depth)).argmax(1).reshape(-1, 1)
            excluded = classes == gather_rows(classes).T
        return info_nce(queries, keys.detach(), self.temperature, excluded=excluded)


class VoxelToVolumeLoss(nn.Module):
    """InfoNCE of the student's bottleneck voxels: the mean of the teacher's voxels of the same patch is the positive.

    Negatives are the means of all other patches. No gradient reaches the teacher.

    Source: You et al., arXiv:2105.07059 (CVRL).

    Args:
        temperature: of the softmax, above 0.

    Raises:
        ValueError: when it is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("VoxelToVolumeLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: ``features`` ``(B, channels, h, w, d)`` and ``teacher_features``, the same shape.
            target: not read.

        Returns:
            Scalar, float32; 0 when there is one patch.
        """
        features = pred["features"]
        volumes = F.normalize(pred["teacher_features"].detach().mean((2, 3, 4)), dim=1)
        own = idist.get_rank() * len(volumes) + torch.arange(len(volumes), device=features.device)
        products = voxel_vectors(features) @ gather_rows(volumes).T / self.temperature
        return F.cross_entropy(products, own.repeat_interleave(features[0, 0].numel()))
