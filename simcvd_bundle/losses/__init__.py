"""The losses, one file a term, and their weighted sum."""

from simcvd_bundle.losses.adversarial import AdversarialLoss
from simcvd_bundle.losses.classification import ClassificationLoss
from simcvd_bundle.losses.consistency import ConsistencyLoss
from simcvd_bundle.losses.contrastive import BoundaryContrastiveLoss
from simcvd_bundle.losses.cross_supervision import CrossPseudoSupervisionLoss
from simcvd_bundle.losses.difference import ViewDifferenceLoss
from simcvd_bundle.losses.distillation import PairwiseDistillationLoss
from simcvd_bundle.losses.elastic import ElasticBoundaryLoss
from simcvd_bundle.losses.entropy import EntropyLoss
from simcvd_bundle.losses.info_nce import info_nce
from simcvd_bundle.losses.interpolation import InterpolationConsistencyLoss
from simcvd_bundle.losses.local_contrast import LocalContrastLoss
from simcvd_bundle.losses.mutual import MutualConsistencyLoss
from simcvd_bundle.losses.nt_xent import NTXentLoss
from simcvd_bundle.losses.pseudo_label import PseudoLabelLoss
from simcvd_bundle.losses.pyramid import PyramidConsistencyLoss
from simcvd_bundle.losses.regions import RegionSegmentationLoss
from simcvd_bundle.losses.segmentation import SegmentationLoss
from simcvd_bundle.losses.signed_distance import SignedDistanceLoss
from simcvd_bundle.losses.soft_targets import SoftTargetLoss
from simcvd_bundle.losses.task_consistency import TaskConsistencyLoss
from simcvd_bundle.losses.uncertainty import UncertaintyMaskedConsistencyLoss
from simcvd_bundle.losses.voxel_contrast import VoxelContrastLoss, VoxelToVolumeLoss
from simcvd_bundle.losses.weighted import WeightedTerms

__all__ = [
    "AdversarialLoss",
    "BoundaryContrastiveLoss",
    "ClassificationLoss",
    "ConsistencyLoss",
    "CrossPseudoSupervisionLoss",
    "ElasticBoundaryLoss",
    "EntropyLoss",
    "InterpolationConsistencyLoss",
    "LocalContrastLoss",
    "MutualConsistencyLoss",
    "NTXentLoss",
    "PairwiseDistillationLoss",
    "PseudoLabelLoss",
    "PyramidConsistencyLoss",
    "RegionSegmentationLoss",
    "SegmentationLoss",
    "SignedDistanceLoss",
    "SoftTargetLoss",
    "TaskConsistencyLoss",
    "UncertaintyMaskedConsistencyLoss",
    "ViewDifferenceLoss",
    "VoxelContrastLoss",
    "VoxelToVolumeLoss",
    "WeightedTerms",
    "info_nce",
]
