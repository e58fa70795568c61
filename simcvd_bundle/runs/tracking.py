"""Experiment tracking with MLflow: what MONAI's ``tracking`` switch leaves open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monai.engines import Workflow
from monai.handlers import MLFlowHandler

from simcvd_bundle.runs.config import running_config


class Tracking:
    """One MLflow run for a run of ours, with parameters and files, that ends marked as what it became.

    The switch appends MONAI's ``MLFlowHandler`` to the handlers of trainer and validator; without it nothing happens
    here. Left to itself, MONAI logs two parameters, leaves failed trainings and all evaluations marked as running, and
    lets the next run of the experiment continue them.

    Args:
        handlers: the handlers of all engines of the run.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.trackers = [handler for handler in handlers if isinstance(handler, MLFlowHandler)]
        parameters = plain_values(running_config()) if self.trackers else {}
        name = time.strftime("run_%Y%m%d_%H%M%S")
        for tracker in self.trackers:
            tracker.run_name = tracker.run_name or name  # MONAI continues an unfinished run that has no name of its own
            tracker.experiment_param = parameters
            # a plain output_dir makes MONAI look for the written configuration under the text of an expression
            tracker.artifacts = tuple(str(path).replace(" + '/", "/").rstrip("'") for path in tracker.artifacts if path)

    def __enter__(self) -> Tracking:
        """Track what the block does."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Mark the MLflow run as finished; after an error as failed, after Ctrl-C as killed."""
        status = "FINISHED" if error is None else "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        for tracker in self.trackers:
            tracker.run_finish_status = status
            tracker.close()

    def run(self, engine: Workflow) -> None:
        """Run an engine; its trackers are closed at the end of the block, after the last file."""
        for tracker in self.trackers:
            if engine.has_event_handler(tracker.close, Events.COMPLETED):
                engine.remove_event_handler(tracker.close, Events.COMPLETED)
        engine.run()

    def log_files(self, *files: Path) -> None:
        """Log files to the MLflow run."""
        for tracker in self.trackers:
            run: Any = tracker.cur_run
            if run:
                for file in files:
                    tracker.client.log_artifact(run.info.run_id, str(file))
                break  # the handlers of all engines share one run


def plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """Ids of a config that hold a number, a switch, a text or a list of these, not an expression or a definition."""

    def plain(value: Any) -> bool:
        if isinstance(value, list):
            return all(map(plain, value))
        return (
            value is None
            or isinstance(value, (bool, int, float))
            or (isinstance(value, str) and value[:1] not in "$@%")
        )

    return {name: value for name, value in config.items() if plain(value)}
