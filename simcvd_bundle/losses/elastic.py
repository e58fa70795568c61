"""The elastic interaction of two boundaries: long-range, so that far ones attract each other."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simcvd_bundle.utils.precision import in_float32


class ElasticBoundaryLoss(nn.Module):
    """Mean over frequencies and classes of ``|k| |FFT(p - y)|^2``, p the probabilities, y the label as 0 and 1.

    The transform is orthonormal, k in radians a voxel: without the factor ``|k|`` it would be the mean squared error.

    Source: Lan et al., MICCAI 2020, arXiv:2007.02663, its Fourier form with a third axis; a term of You et al.,
    arXiv:2105.07059 (CVRL).
    """

    reads_teacher = False

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of labelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)``.
            target: ``label`` ``(B, 1, H, W, D)``, class indices.

        Returns:
            Scalar, float32; 0 when the prediction is the label.
        """
        probability = pred["logits"].softmax(1)[:, 1:]
        classes = torch.arange(1, probability.shape[1] + 1, device=probability.device).view(-1, 1, 1, 1)
        difference = torch.fft.fftn(probability - (target["label"] == classes).float(), dim=(2, 3, 4), norm="ortho")
        steps = [torch.fft.fftfreq(size, 1 / (2 * math.pi), device=difference.device) for size in difference.shape[2:]]
        frequency = torch.stack(torch.meshgrid(*steps, indexing="ij")).norm(dim=0)
        energy: Tensor = frequency * (difference.real**2 + difference.imag**2)
        return energy.mean()
