"""The segmentation loss, the first supervised term of equation (1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.losses import DiceCELoss
from torch import Tensor, nn

from simcvd_bundle.losses.outputs import all_logits
from simcvd_bundle.utils.precision import in_float32


class SegmentationLoss(nn.Module):
    """L_seg: the mean of cross-entropy and Dice, as UA-MT and DTC compute it; other methods weigh them otherwise.

    Dice runs over the foreground classes, with squared denominators, over the whole batch at once, smoothed by 1e-5. A
    batch without foreground gives a Dice near 1 unless the prediction is empty too, and never NaN.

    Source: eq. (1) of You et al., IEEE TMI 2022; the conventions are those of UA-MT (Yu et al., MICCAI 2019).

    Args:
        cross_entropy: weight of the cross-entropy.
        dice: weight of the Dice loss.
        all_outputs: the sum over the network's own and its extra outputs; otherwise its own alone.
    """

    reads_teacher = False

    def __init__(self, cross_entropy: float = 0.5, dice: float = 0.5, all_outputs: bool = False) -> None:
        super().__init__()
        self.all_outputs = all_outputs
        self.dice_ce = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            squared_pred=True,
            batch=True,
            smooth_nr=1e-5,
            smooth_dr=1e-5,
            lambda_dice=dice,
            lambda_ce=cross_entropy,
        )

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of labelled patches.

        Args:
            pred: ``logits`` ``(B, C + 1, H, W, D)`` and, with ``all_outputs``, ``extra_logits``.
            target: ``label`` ``(B, 1, H, W, D)``, class indices 0 to C.

        Returns:
            Scalar, float32.
        """
        outputs = all_logits(pred) if self.all_outputs else [pred["logits"]]
        return torch.stack([self.dice_ce(logits, target["label"]) for logits in outputs]).sum()
