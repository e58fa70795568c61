"""From masks to scores."""

from simcvd_bundle.evaluation.handler import EvaluationReport
from simcvd_bundle.evaluation.metrics import case_metrics

__all__ = ["EvaluationReport", "case_metrics"]
