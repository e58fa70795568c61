"""Mixup of unlabelled patches: weighted sums of two, and of what the teacher predicts for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from simcvd_bundle.training.mixes import two_unlabeled
from simcvd_bundle.utils.checks import positive


class Mixup:
    """``lambda x_i + (1 - lambda) x_j`` of two unlabelled patches, ``lambda ~ Beta(alpha, alpha)`` anew for each pair.

    The first half of the patches meets the second, so the student sees half as many. Probabilities of the teacher are
    mixed alike.

    Source: Verma et al., IJCAI 2019, arXiv:1903.03825 (interpolation consistency).

    Args:
        alpha: of the beta distribution, above 0; the smaller, the nearer lambda is to 0 or 1.

    Raises:
        ValueError: when ``alpha`` is not positive, or there are no two patches to mix.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        self.alpha = positive("Mixup", "alpha", alpha)

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Mix.

        Args:
            batch: see ``Mix``; ``image`` and ``teacher_logits`` of ``unlabeled``.

        Returns:
            ``image`` ``(B // 2, channels, H, W, D)`` and ``soft_target`` ``(B // 2, C + 1, H, W, D)``, probabilities.
        """
        unlabeled = two_unlabeled(batch, "Mixup")
        image = unlabeled["image"]
        pairs = len(image) // 2
        beta = torch.distributions.Beta(self.alpha, self.alpha)
        factor = beta.sample((pairs, 1, 1, 1, 1)).to(image)
        probability = unlabeled["teacher_logits"].float().softmax(1)
        return {
            name: torch.lerp(entry[pairs : 2 * pairs], entry[:pairs], factor.to(entry))
            for name, entry in (("image", image), ("soft_target", probability))
        }
