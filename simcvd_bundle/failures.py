"""Batch inference in which a bad case does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from monai.engines import Evaluator

from simcvd_bundle.cases import case_name, first_cause

logger = logging.getLogger(__name__)


class Failures:
    """Collects the cases that could not be read, segmented or written, and ends the run with their list."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, case: str, reason: BaseException | str) -> None:
        """Record a case; the first reason counts."""
        text = reason if isinstance(reason, str) else f"{first_cause(reason)}" or type(reason).__name__
        if case not in self.reasons:
            logger.error("%s failed, going on with the next case: %s", case, text)
        self.reasons.setdefault(case, text)

    def iteration(self, engine: Evaluator, batch: Any) -> Any:
        """One iteration of an evaluator (its ``iteration_update``), which leaves a bad case out.

        Args:
            engine: the evaluator.
            batch: a batch of one case, or what ``SkippedCases`` gives for an unreadable one.
        """
        if "failure" in batch:
            self.add(batch["image"][0], batch["failure"][0])
            return []
        names = case_name(batch)
        try:
            iterate: Callable[..., Any] = engine._iteration
            return iterate(engine, batch)
        except Exception as error:  # out of memory, a shape that the network cannot take, ...
            self.add(names, error)
            return []

    def finish(self) -> None:
        """End the run.

        Raises:
            RuntimeError: with all cases that failed, if any.
        """
        if self.reasons:
            lines = "\n".join(f"  {case}: {reason}" for case, reason in self.reasons.items())
            raise RuntimeError(
                f"{len(self.reasons)} cases failed, all others are written. Mend or remove them and run again:\n{lines}"
            )
