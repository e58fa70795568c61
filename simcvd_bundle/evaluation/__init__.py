"""From masks to scores."""

from simcvd_bundle.evaluation.classification_report import ClassificationReport
from simcvd_bundle.evaluation.handler import EvaluationReport
from simcvd_bundle.evaluation.metrics import case_metrics

__all__ = [
    "ClassificationReport",
    "EvaluationReport",
    "case_metrics",
]
