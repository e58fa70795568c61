"""One training step and what surrounds it."""

from simcvd_bundle.training.guards import FiniteLossHandler, GradientClippingHandler
from simcvd_bundle.training.logs import LossTermsHandler
from simcvd_bundle.training.panels import PanelsHandler
from simcvd_bundle.training.schedules import sigmoid_rampup
from simcvd_bundle.training.streams import RandomStreamsHandler
from simcvd_bundle.training.student_teacher import StudentTeacherInferer
from simcvd_bundle.training.teacher import BatchNormStatisticsHandler, MeanTeacherHandler

__all__ = [
    "BatchNormStatisticsHandler",
    "FiniteLossHandler",
    "GradientClippingHandler",
    "LossTermsHandler",
    "MeanTeacherHandler",
    "PanelsHandler",
    "RandomStreamsHandler",
    "StudentTeacherInferer",
    "sigmoid_rampup",
]
