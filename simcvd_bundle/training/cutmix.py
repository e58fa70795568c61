"""CutMix of unlabelled patches: a box of one in the next, and what the teachers predict for them alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from simcvd_bundle.training.mixes import draw_box, two_unlabeled
from simcvd_bundle.utils.checks import positive


class CutMix:
    """A box of the patch before it in every unlabelled patch; the box has ``1 - lambda``, ``lambda ~ Beta(a, a)``.

    Box, place and size are those of the whole batch. Predictions of the teacher are cut alike, and so is where several
    teachers (``TwoTeachers``) contradict each other.

    Source: Yun et al., ICCV 2019, arXiv:1905.04899; for AD-MT, Zhao et al., ECCV 2024, arXiv:2311.17325 (alpha 4).

    Args:
        alpha: a, above 0; the larger, the nearer the box is to half of the voxels.

    Raises:
        ValueError: when ``alpha`` is not positive, or there are no two patches to mix.
    """

    def __init__(self, alpha: float = 4.0) -> None:
        self.alpha = positive("CutMix", "alpha", alpha)

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Mix.

        Args:
            batch: see ``Mix``; of ``unlabeled`` ``image``, ``teacher_logits`` and, of several teachers,
                ``teacher_extra_logits`` ``(B, K, C + 1, H, W, D)``, those of each.

        Returns:
            ``image`` ``(B, channels, H, W, D)``, ``soft_target`` ``(B, C + 1, H, W, D)``, probabilities, and
            ``conflict`` ``(B, 1, H, W, D)``, bool, whether the teachers' classes differ.
        """
        unlabeled = two_unlabeled(batch, "CutMix")
        logits = unlabeled["teacher_logits"].float()
        masks = unlabeled.get("teacher_extra_logits", logits[:, None]).argmax(2)
        conflict = (masks != masks[:, :1]).any(1, keepdim=True)
        outside = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        inside = draw_box(conflict, (1 - outside) ** (1 / 3))
        entries = {"image": unlabeled["image"], "soft_target": logits.softmax(1), "conflict": conflict}
        return {name: torch.where(inside, entry.roll(1, 0), entry) for name, entry in entries.items()}
