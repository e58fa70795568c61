"""The life of a run: its config, folder, checkpoints, weights, tracking."""

from simcvd_bundle.runs.archive import remaining_scans
from simcvd_bundle.runs.checkpoints import BestMetric, RunCheckpoint
from simcvd_bundle.runs.config import RunSettings, check_config
from simcvd_bundle.runs.lifecycle import Lifecycle
from simcvd_bundle.runs.weights import frozen_teacher, load_pretrained, load_weights, with_members

__all__ = [
    "BestMetric",
    "Lifecycle",
    "RunCheckpoint",
    "RunSettings",
    "check_config",
    "frozen_teacher",
    "load_pretrained",
    "load_weights",
    "remaining_scans",
    "with_members",
]
