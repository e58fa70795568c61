"""The student's side of a critic: predictions of unlabelled images that pass for those of labelled ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from simcvd_bundle.losses.outputs import all_logits
from simcvd_bundle.utils.precision import in_float32

LABELED = 1
"""The critic's class of what belongs to labelled images; 0 is what belongs to unlabelled ones."""
JUDGED = ("sdm", "mask")
"""What a critic compares: ``sdm`` the predicted signed distance maps of labelled with those of unlabelled images
(SASSNet), ``mask`` labels with the predicted probabilities of unlabelled images (Duo-SegNet)."""


def require_judged(judged: str) -> str:
    """Return ``judged`` if it is one of ``JUDGED``, else raise ``ValueError``."""
    if judged not in JUDGED:
        raise ValueError(f"judged must be one of {', '.join(JUDGED)}, got {judged!r}.")
    return judged


def predicted_maps(pred: Mapping[str, Tensor], judged: str) -> tuple[Tensor, Tensor]:
    """What the critic sees of a prediction.

    Args:
        pred: ``image`` ``(B, channels, H, W, D)``, and ``sdm`` ``(B, C, H, W, D)`` or ``logits``
            ``(B, C + 1, H, W, D)`` and those of further outputs.
        judged: one of ``JUDGED``.

    Returns:
        Maps and their images, for probabilities those of every output, one after the other along the batch.
    """
    if judged == "sdm":
        return pred["sdm"], pred["image"]
    outputs = all_logits(pred) if "extra_logits" in pred else [pred["logits"]]
    return torch.cat([logits.float().softmax(1) for logits in outputs]), pred["image"].repeat(len(outputs), 1, 1, 1, 1)


class AdversarialLoss(nn.Module):
    """Cross-entropy of the critic's judgement with "labelled"; the critic itself gets no gradient of it.

    Source: Li et al., MICCAI 2020, arXiv:2007.10732; Peiris et al., MICCAI 2021, arXiv:2108.11154.

    Args:
        critic: what judges, ``critic(maps, image)``; ``CriticHandler`` trains it.
        judged: one of ``JUDGED``.

    Raises:
        ValueError: when ``judged`` is none of them.
    """

    reads_teacher = False

    def __init__(self, critic: nn.Module, judged: str = "sdm") -> None:
        super().__init__()
        self.critic = critic
        self.judged = require_judged(judged)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of unlabelled patches.

        Args:
            pred: see ``predicted_maps``.
            target: not read.

        Returns:
            Scalar, float32; ``log 2`` where the critic cannot tell.
        """
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        judged = functional_call(self.critic, frozen, predicted_maps(pred, self.judged))
        return F.cross_entropy(judged, torch.full((len(judged),), LABELED, device=judged.device))
