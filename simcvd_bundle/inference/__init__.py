"""From a scan to its mask."""

from simcvd_bundle.inference.batch import BatchEvaluator, Results
from simcvd_bundle.inference.case_table import CaseTable
from simcvd_bundle.inference.classifying import ScanInferer
from simcvd_bundle.inference.dicom_seg import SaveDicomSegd
from simcvd_bundle.inference.disagreement import mask_disagreement
from simcvd_bundle.inference.masks import CountVoxelsd, KeepLargestd, MaskAndMapsd
from simcvd_bundle.inference.quality import Quality
from simcvd_bundle.inference.saving import SaveResultd
from simcvd_bundle.inference.windows import make_inferer

__all__ = [
    "BatchEvaluator",
    "CaseTable",
    "CountVoxelsd",
    "KeepLargestd",
    "MaskAndMapsd",
    "Quality",
    "Results",
    "SaveDicomSegd",
    "SaveResultd",
    "ScanInferer",
    "make_inferer",
    "mask_disagreement",
]
