"""Writing of results beside the computation of the next ones."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.data import NibabelWriter
from monai.engines import Evaluator
from monai.transforms import SaveImaged

from simcvd_bundle.data.cases import case_name
from simcvd_bundle.utils.atomic import atomically
from simcvd_bundle.utils.errors import first_cause

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


class BackgroundWriter:
    """Threads that write files; at most ``max_pending`` results wait for them, so memory stays bounded.

    Args:
        failures: where a case is recorded whose file cannot be written.
        num_threads: number of threads.
        max_pending: results in memory before the next one has to wait.
    """

    def __init__(self, failures: Failures, num_threads: int = 2, max_pending: int = 4) -> None:
        self.failures = failures
        self.threads = ThreadPoolExecutor(num_threads)
        self.max_pending = max_pending
        self.pending: deque[tuple[str, Future[Any]]] = deque()

    def submit(self, case: str, function: Any, *args: Any) -> None:
        """Call ``function`` in a thread, for the case of this name."""
        while len(self.pending) >= self.max_pending:
            self._wait()
        self.pending.append((case, self.threads.submit(function, *args)))

    def finish(self) -> None:
        """Wait until all is written."""
        while self.pending:
            self._wait()

    def _wait(self) -> None:
        case, future = self.pending.popleft()
        error = future.exception()
        if error is not None:
            self.failures.add(case, error)


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's NIfTI writer, but a file takes its name when it is complete, and nothing is resampled.

    We never ask for that, and even then MONAI 1.6 inverts the affine's upper 2 x 2 part (it counts the axes of an array
    without channels as one less), so that it cannot write a sagittal scan, where that part is singular.
    """

    @classmethod
    def resample_if_needed(cls, data_array: Any, affine: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Give array and affine back."""
        return data_array, affine

    def write(self, filename: Any, verbose: bool = False, **kwargs: Any) -> None:
        """Write to ``filename``."""
        with atomically(Path(filename)) as unfinished:
            super().write(unfinished, **kwargs)
        if verbose:
            logger.info("Wrote %s", filename)


class SaveInBackgroundd(SaveImaged):
    """MONAI's ``SaveImaged`` in the threads of a writer, whose ``finish`` belongs at the end of the run.

    Args:
        writer: the writer.
        keys: as for ``SaveImaged``.
        **kwargs: as for ``SaveImaged``.
    """

    def __init__(self, writer: BackgroundWriter, keys: KeysCollection, **kwargs: Any) -> None:
        super().__init__(keys, writer=AtomicNibabelWriter, **kwargs)
        self.writer = writer

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Queue the arrays of the keys for writing and return ``data`` as it is."""
        self.writer.submit(case_name(data), self._save, dict(data))
        return dict(data)

    def _save(self, data: dict[Hashable, Any]) -> None:
        try:
            super().__call__(data)  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # MONAI's holds a page of tracebacks, the cause in its last line
            raise OSError(f"a result cannot be written: {str(error).strip().splitlines()[-1]}") from None
