"""Scalars that a training run logged for TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simcvd_bundle.commands.report.plots import Curve


def load_curves(run: str) -> dict[str, Curve]:
    """Read all scalars of a run.

    Args:
        run: folder of a training run, with ``tensorboard/`` in it.

    Returns:
        Tag to steps and values, by step; where a step was logged twice (a resumed run) the later value counts.

    Raises:
        FileNotFoundError: when the folder has no TensorBoard logs.
        ValueError: when the logs hold no scalar.
    """
    folder = Path(run, "tensorboard")
    if not any(folder.glob("events.out.tfevents.*")):
        raise FileNotFoundError(f"{folder} has no TensorBoard logs: give the output folder of a training run in runs.")
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # else a line for every file that it opens
    logs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    logs.Reload()
    curves: dict[str, Curve] = {}
    for tag in logs.Tags()["scalars"]:
        by_step = {event.step: event.value for event in sorted(logs.Scalars(tag), key=lambda event: event.wall_time)}
        curves[tag] = (sorted(by_step), [by_step[step] for step in sorted(by_step)])
    if not curves:
        raise ValueError(f"The TensorBoard logs in {folder} hold no scalar: did the run reach its first log interval?")
    return curves
