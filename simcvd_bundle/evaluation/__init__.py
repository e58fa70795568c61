"""From masks to scores, and the masks as files."""

from simcvd_bundle.evaluation.handler import EvaluationReport
from simcvd_bundle.evaluation.masks import SaveMasks, result_files
from simcvd_bundle.evaluation.metrics import case_metrics

__all__ = ["EvaluationReport", "SaveMasks", "case_metrics", "result_files"]
