"""The weighted sum of all terms, equation (6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simcvd_bundle.losses.consistency import ConsistencyLoss
from simcvd_bundle.losses.contrastive import BoundaryContrastiveLoss
from simcvd_bundle.losses.distillation import PairwiseDistillationLoss
from simcvd_bundle.losses.segmentation import SegmentationLoss
from simcvd_bundle.losses.signed_distance import SignedDistanceLoss


class SimCVDLoss(nn.Module):
    """``L_seg + alpha L_sdm + r (lambda L_contrast + beta L_pd + gamma L_con)`` (eqs. 1 and 6), r the ramp-up.

    Labelled patches come first in the batch. A term whose inputs the prediction does not hold is left out: without
    unlabelled patches only the supervised terms remain, without embeddings there is no contrastive term.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        sdm_weight: alpha of eq. (1) (paper: 0.1).
        contrastive_weight: lambda of eq. (6) (paper: 0.5).
        distillation_weight: beta of eq. (6) (paper: 0.1).
        consistency_weight: gamma of eq. (6) (paper: 0.1).
        temperature: tau of eq. (2) (paper: 0.5).
        distillation_temperature: temperature of eq. (4) (paper: none, that is 1).
        consistency_includes_sdm: compare signed distance maps as well as probabilities in eq. (5).
        gather_negatives: contrast the slices of all processes, see ``BoundaryContrastiveLoss``.

    Attributes:
        rampup: factor in [0, 1] of the three unsupervised terms, set from outside at every iteration.
        terms: the unweighted terms of the last call by name, detached.

    Raises:
        ValueError: when a weight is negative.
    """

    def __init__(
        self,
        sdm_weight: float = 0.1,
        contrastive_weight: float = 0.5,
        distillation_weight: float = 0.1,
        consistency_weight: float = 0.1,
        temperature: float = 0.5,
        distillation_temperature: float = 1.0,
        consistency_includes_sdm: bool = True,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__()
        self.weights = {
            "segmentation": 1.0,
            "sdm": sdm_weight,
            "contrastive": contrastive_weight,
            "distillation": distillation_weight,
            "consistency": consistency_weight,
        }
        for name, weight in self.weights.items():
            if weight < 0:
                raise ValueError(f"SimCVDLoss: {name}_weight must not be negative, got {weight}.")
        self.segmentation = SegmentationLoss()
        self.sdm = SignedDistanceLoss()
        self.contrastive = BoundaryContrastiveLoss(temperature, gather_negatives)
        self.distillation = PairwiseDistillationLoss(distillation_temperature)
        self.consistency = ConsistencyLoss(consistency_includes_sdm)
        self.rampup = 1.0
        self.terms: dict[str, Tensor] = {}

    def set_rampup(self, value: float) -> None:
        """Set the ramp-up factor (the ``parameter_setter`` of MONAI's ``ParamSchedulerHandler``)."""
        self.rampup = value

    def current_weights(self) -> dict[str, float]:
        """Weight of each term by name, ramp-up included."""
        supervised = ("segmentation", "sdm")
        return {name: w if name in supervised else w * self.rampup for name, w in self.weights.items()}

    def log_values(self) -> dict[str, Tensor | float]:
        """Total (``loss``), terms (``loss_NAME``) and weights (``weight_NAME``) of the last call."""
        weights = self.current_weights()
        return {
            "loss": self._total(self.terms),
            **{f"loss_{name}": term for name, term in self.terms.items()},
            **{f"weight_{name}": weights[name] for name in self.terms},
        }

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        weights = self.current_weights()
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Total loss of one batch.

        Args:
            pred: what ``StudentTeacherInferer`` returns: ``logits`` and ``sdm`` of the whole batch; for the unlabelled
                patches, if any, ``teacher_logits``, ``teacher_sdm``, ``features``, ``teacher_features`` and, if
                slices are projected, ``embeddings`` and ``teacher_embeddings``.
            target: ``label`` ``(L, 1, H, W, D)`` and ``sdm`` ``(L, C, H, W, D)`` of the first ``L`` patches.

        Returns:
            Scalar, float32.
        """
        num_labeled = len(target["label"])
        losses = {
            "segmentation": self.segmentation(pred["logits"][:num_labeled], target["label"]),
            "sdm": self.sdm(pred["sdm"][:num_labeled], target["sdm"]),
        }
        if "embeddings" in pred:
            losses["contrastive"] = self.contrastive(pred["embeddings"], pred["teacher_embeddings"])
        if "features" in pred:
            losses["distillation"] = self.distillation(pred["features"], pred["teacher_features"])
        if "teacher_logits" in pred:
            losses["consistency"] = self.consistency(
                pred["logits"][num_labeled:], pred["sdm"][num_labeled:], pred["teacher_logits"], pred["teacher_sdm"]
            )
        self.terms = {name: loss.detach() for name, loss in losses.items()}
        return self._total(losses)
