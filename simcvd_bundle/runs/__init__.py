"""The life of a run: its config, folder, checkpoints, weights, tracking."""

from simcvd_bundle.runs.checkpoints import BestMetric, RunCheckpoint
from simcvd_bundle.runs.config import RunSettings, check_config
from simcvd_bundle.runs.folder import finish_run, start_run
from simcvd_bundle.runs.tracking import Tracking
from simcvd_bundle.runs.weights import load_pretrained, load_weights

__all__ = [
    "BestMetric",
    "RunCheckpoint",
    "RunSettings",
    "Tracking",
    "check_config",
    "finish_run",
    "load_pretrained",
    "load_weights",
    "start_run",
]
