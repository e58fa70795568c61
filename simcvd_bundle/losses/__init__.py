"""The losses of SimCVD, one file per term, and their weighted sum."""

from simcvd_bundle.losses.consistency import ConsistencyLoss
from simcvd_bundle.losses.contrastive import BoundaryContrastiveLoss
from simcvd_bundle.losses.distillation import PairwiseDistillationLoss
from simcvd_bundle.losses.segmentation import SegmentationLoss
from simcvd_bundle.losses.signed_distance import SignedDistanceLoss
from simcvd_bundle.losses.simcvd import SimCVDLoss

__all__ = [
    "BoundaryContrastiveLoss",
    "ConsistencyLoss",
    "PairwiseDistillationLoss",
    "SegmentationLoss",
    "SignedDistanceLoss",
    "SimCVDLoss",
]
