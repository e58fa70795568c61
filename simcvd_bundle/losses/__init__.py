"""The losses, one file a term, and their weighted sum."""

from simcvd_bundle.losses.classification import ClassificationLoss
from simcvd_bundle.losses.consistency import ConsistencyLoss
from simcvd_bundle.losses.contrastive import BoundaryContrastiveLoss
from simcvd_bundle.losses.distillation import PairwiseDistillationLoss
from simcvd_bundle.losses.info_nce import info_nce
from simcvd_bundle.losses.nt_xent import NTXentLoss
from simcvd_bundle.losses.segmentation import SegmentationLoss
from simcvd_bundle.losses.signed_distance import SignedDistanceLoss
from simcvd_bundle.losses.weighted import WeightedTerms

__all__ = [
    "BoundaryContrastiveLoss",
    "ClassificationLoss",
    "ConsistencyLoss",
    "NTXentLoss",
    "PairwiseDistillationLoss",
    "SegmentationLoss",
    "SignedDistanceLoss",
    "WeightedTerms",
    "info_nce",
]
