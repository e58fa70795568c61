"""One training step and what surrounds it."""

from simcvd_bundle.training.critic import CriticHandler
from simcvd_bundle.training.cutmix import CutMix
from simcvd_bundle.training.guards import FiniteLossHandler, GradientClippingHandler
from simcvd_bundle.training.logs import LogsHandler, LossTermsHandler
from simcvd_bundle.training.mixes import CopyPaste, LabeledCopyPaste, Relabel
from simcvd_bundle.training.mixup import Mixup
from simcvd_bundle.training.panels import PanelsHandler
from simcvd_bundle.training.pretraining import ContrastiveInferer, KeyQueue, KeyQueueHandler
from simcvd_bundle.training.pseudo_labels import ArgMax, ClassGuard, Confidence, LargestComponent, Sharpen
from simcvd_bundle.training.schedules import RampUpHandler, sigmoid_rampup
from simcvd_bundle.training.streams import RandomStreamsHandler
from simcvd_bundle.training.student_teacher import StudentTeacherInferer
from simcvd_bundle.training.teacher import (
    AlternatingTeachersHandler,
    BatchNormStatisticsHandler,
    MeanTeacherHandler,
    StageTeacherHandler,
)
from simcvd_bundle.training.views import GaussianNoise, RandomIntensity

__all__ = [
    "AlternatingTeachersHandler",
    "ArgMax",
    "BatchNormStatisticsHandler",
    "ClassGuard",
    "Confidence",
    "ContrastiveInferer",
    "CopyPaste",
    "CriticHandler",
    "CutMix",
    "FiniteLossHandler",
    "GaussianNoise",
    "GradientClippingHandler",
    "KeyQueue",
    "KeyQueueHandler",
    "LabeledCopyPaste",
    "LargestComponent",
    "LogsHandler",
    "LossTermsHandler",
    "MeanTeacherHandler",
    "Mixup",
    "PanelsHandler",
    "RampUpHandler",
    "RandomIntensity",
    "RandomStreamsHandler",
    "Relabel",
    "Sharpen",
    "StageTeacherHandler",
    "StudentTeacherInferer",
    "sigmoid_rampup",
]
