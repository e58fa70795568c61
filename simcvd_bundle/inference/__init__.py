"""From a scan to its mask."""

from simcvd_bundle.inference.batch import BackgroundWriter, Failures, SaveInBackgroundd
from simcvd_bundle.inference.disagreement import mask_disagreement
from simcvd_bundle.inference.windows import make_inferer

__all__ = ["BackgroundWriter", "Failures", "SaveInBackgroundd", "make_inferer", "mask_disagreement"]
