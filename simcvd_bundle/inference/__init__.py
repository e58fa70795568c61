"""From a scan to its mask."""

from simcvd_bundle.inference.batch import BatchEvaluator, MaskAndMapsd, Results, SaveResultd
from simcvd_bundle.inference.certainty import CertaintyHandler, expected_dice
from simcvd_bundle.inference.classifying import ScanInferer
from simcvd_bundle.inference.dicom_seg import SaveDicomSegd
from simcvd_bundle.inference.disagreement import mask_disagreement
from simcvd_bundle.inference.windows import make_inferer

__all__ = [
    "BatchEvaluator",
    "CertaintyHandler",
    "MaskAndMapsd",
    "Results",
    "SaveDicomSegd",
    "SaveResultd",
    "ScanInferer",
    "expected_dice",
    "make_inferer",
    "mask_disagreement",
]
