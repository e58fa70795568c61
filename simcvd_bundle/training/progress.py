"""How far a training is and when it will end."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from ignite.engine import Engine, Events
from tqdm import tqdm

logger = logging.getLogger(__name__)

FIRST_ITERATIONS = 5
"""Iterations after which the end is foretold first; later once an epoch."""


class ProgressHandler:
    """A progress bar over the whole training, and its expected end in the log.

    ignite's ``ProgressBar`` runs over one epoch, so its remaining time is that of the epoch. The end is foretold from
    what the iterations of this process took so far, validations and checkpoints between them included.

    Args:
        name: what the engine does.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[None] | None = None

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def start(self, engine: Engine) -> None:
        """Begin the bar with the first iteration, when a resumed run knows how far it is."""
        if self.bar is None:
            self.first, self.began = engine.state.iteration - 1, time.monotonic()
            self.bar = tqdm(desc=self.name, total=_total(engine), initial=self.first, unit="it", leave=False)

    def __call__(self, engine: Engine) -> None:
        """Move the bar; write the expected end when it is due."""
        if self.bar is not None:
            self.bar.update()
        iteration = engine.state.iteration
        done = iteration - self.first
        if done == FIRST_ITERATIONS or iteration % (engine.state.epoch_length or 1) == 0:
            seconds = (time.monotonic() - self.began) / done
            left = timedelta(seconds=round((_total(engine) - iteration) * seconds))
            logger.info(
                "Iteration %d of %d, %.3g s each: end expected in %s, at %s.",
                iteration, _total(engine), seconds, left, f"{datetime.now() + left:%H:%M on %d %B}",
            )  # fmt: skip

    def close(self) -> None:
        """End the bar; another run of the engine gets a new one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _total(engine: Engine) -> int:
    return (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
