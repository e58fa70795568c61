"""Experiment tracking with MLflow: what MONAI's ``tracking`` switch leaves open."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

    def run(self, engine: Workflow) -> None:
        """Run an engine; an error marks the MLflow run as failed, Ctrl-C as killed."""
        for tracker in self.trackers:
            if engine.has_event_handler(tracker.close, Events.COMPLETED):
                engine.remove_event_handler(tracker.close, Events.COMPLETED)  # finish closes, after the last file
        with self.closed_by_errors():
            engine.run()

    def finish(self, *files: str) -> None:
        """Log files and mark the MLflow run as finished."""
        with self.closed_by_errors():
            for tracker in self.trackers:
                run: Any = tracker.cur_run
                if run:
                    for file in files:
                        tracker.client.log_artifact(run.info.run_id, file)
                    break  # the handlers of all engines share one run
        self._close("FINISHED")

    @contextmanager
    def closed_by_errors(self) -> Iterator[None]:
        """Mark the MLflow run when an error passes."""
        try:
            yield
        except BaseException as error:
            self._close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise

    def _close(self, status: str) -> None:
        for tracker in self.trackers:
            tracker.run_finish_status = status
            tracker.close()


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
