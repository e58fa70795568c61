"""One training step and what surrounds it."""

from simcvd_bundle.training.guards import FiniteLossHandler, GradientClippingHandler
from simcvd_bundle.training.logs import LogsHandler, LossTermsHandler
from simcvd_bundle.training.panels import PanelsHandler
from simcvd_bundle.training.pretraining import ContrastiveInferer, KeyQueue, KeyQueueHandler
from simcvd_bundle.training.schedules import RampUpHandler, sigmoid_rampup
from simcvd_bundle.training.streams import RandomStreamsHandler
from simcvd_bundle.training.student_teacher import StudentTeacherInferer
from simcvd_bundle.training.teacher import BatchNormStatisticsHandler, MeanTeacherHandler
from simcvd_bundle.training.views import GaussianNoise

__all__ = [
    "BatchNormStatisticsHandler",
    "ContrastiveInferer",
    "FiniteLossHandler",
    "GaussianNoise",
    "GradientClippingHandler",
    "KeyQueue",
    "KeyQueueHandler",
    "LogsHandler",
    "LossTermsHandler",
    "MeanTeacherHandler",
    "PanelsHandler",
    "RampUpHandler",
    "RandomStreamsHandler",
    "StudentTeacherInferer",
    "sigmoid_rampup",
]
