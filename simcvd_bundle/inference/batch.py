"""Batch inference in which a bad case does not stop the others, and results are written beside the computation."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, SupervisedEvaluator

from simcvd_bundle.data.cases import case_name
from simcvd_bundle.inference.case_table import DONE, FAILED, SEPARATOR, CaseTable
from simcvd_bundle.utils.devices import log_device
from simcvd_bundle.utils.errors import first_cause
from simcvd_bundle.utils.memory import keep_freed_memory
from simcvd_bundle.utils.workers import worker_errors

logger = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk, or of a user's part of it, that is full."""


class Results:
    """Threads that write the results of a batch, and the cases that could not be read, segmented or written.

    At most ``max_pending`` results wait to be written, so memory stays bounded.

    Args:
        num_threads: number of threads.
        max_pending: results in memory before the next one has to wait.
        table: where each case gets a row when it has failed or all its files are written.
    """

    def __init__(self, num_threads: int = 2, max_pending: int = 4, table: CaseTable | None = None) -> None:
        self.reasons: dict[str, str] = {}
        self.threads = ThreadPoolExecutor(num_threads)
        self.max_pending = max_pending
        self.table = table
        self.pending: deque[tuple[str, Future[Any]]] = deque()
        self.files: dict[str, list[str]] = {}
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.full = False

    def attach(self, engine: Engine) -> None:
        """Wait for the results when the engine has seen all cases, before the handlers that come later."""
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def fail(self, case: str, reason: BaseException | str, path: str | None = None) -> None:
        """Record a case as bad; the first reason counts.

        Args:
            case: its name.
            reason: what happened.
            path: its file, where the name is not one.
        """
        text = reason if isinstance(reason, str) else f"{first_cause(reason)}" or type(reason).__name__
        if case in self.reasons:
            return
        logger.error("%s failed, going on with the next case: %s", case, text)
        self.reasons[case] = text
        if self.table is not None:
            self.table.add(path or case, FAILED, {"error": text})

    def submit(self, case: str, file: Path, function: Callable[..., Any], *args: Any) -> None:
        """Call ``function``, which writes ``file``, in a thread, for the case of this name."""
        while len(self.pending) >= self.max_pending:
            self._wait()
        self.files.setdefault(case, []).append(file.name)
        self.pending.append((case, self.threads.submit(function, *args)))

    def complete(self, case: str, values: Mapping[str, Any]) -> None:
        """Note what the row of a case is to hold; all its files have been submitted."""
        self.rows[case] = values
        while self.pending and self.pending[0][1].done():
            self._wait()
        self._add_rows()

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            RuntimeError: with all cases that failed, if any.
        """
        while self.pending:
            self._wait()
        self._add_rows()
        if self.table is not None:
            self.table.tidy()
        if self.reasons:
            lines = "\n".join(f"  {case}: {reason}" for case, reason in self.reasons.items())
            raise RuntimeError(
                f"{len(self.reasons)} cases failed, all others are written. Mend or remove them and run again:\n{lines}"
            )

    def _wait(self) -> None:
        case, future = self.pending.popleft()
        error = future.exception()
        if error is not None:
            self.full = self.full or (isinstance(error, OSError) and error.errno in FULL)
            self.fail(case, error)

    def _add_rows(self) -> None:
        """Rows of the cases of which nothing waits any more."""
        waiting = {case for case, _ in self.pending}
        for case in [case for case in self.rows if case not in waiting]:
            values, files = self.rows.pop(case), self.files.pop(case, [])
            if self.table is not None and case not in self.reasons:
                self.table.add(case, DONE, {**values, "files": SEPARATOR.join(files)})


class BatchEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, but a bad case is recorded, and the run ends with the results.

    Args:
        results: where a case is recorded.
        quality: called with what the inferer gives for one scan; its values become columns of the table.
        **kwargs: as for ``SupervisedEvaluator``; batches hold one case.
    """

    def __init__(
        self, results: Results, quality: Callable[[torch.Tensor], Mapping[str, float]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.results = results
        self.quality = quality
        self.scores: Mapping[str, float] = {}
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._score)
        results.attach(self)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Segment all cases.

        Raises:
            OSError: when the disk is full.
            RuntimeError: at the end, with all cases that failed, if any.
        """
        keep_freed_memory()
        loader: Any = self.data_loader
        if not len(loader.dataset):
            self.results.finish()
            logger.info("Nothing is left to segment.")
            return
        log_device("Segmenting", self)
        try:
            with worker_errors():
                super().run(global_epoch)
        except BaseException:
            with contextlib.suppress(OSError, RuntimeError):
                self.results.finish()  # what is written is not to be computed again
            raise

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> Any:
        if self.results.full:
            raise OSError(
                errno.ENOSPC, "the disk of output_dir is full: make room and run again, scans that are done are skipped"
            )
        if "failure" in batchdata:  # what SkippedCases gives for an unreadable case
            self.results.fail(batchdata["image"][0], batchdata["failure"][0], batchdata["path"][0])
            return []
        name, begin = case_name(batchdata), time.perf_counter()
        try:
            output = super()._iteration(engine, batchdata)
            self.results.complete(name, {"seconds": f"{time.perf_counter() - begin:.2f}", **self._figures(output[0])})
            return output
        except Exception as error:  # out of memory, a shape that the network cannot take, ...
            self.results.fail(name, error)
            return []

    def _score(self) -> None:
        state: Any = self.state
        self.scores = self.quality(state.output["pred"][0]) if self.quality else {}

    def _figures(self, item: Mapping[str, Any]) -> dict[str, str]:
        """What the table says about a mask."""
        figures = {name: f"{score:.4f}" for name, score in self.scores.items()}
        if self.results.table is not None and "voxels" in item:
            ml = abs(float(torch.linalg.det(item["pred"].affine[:3, :3].double()))) / 1000
            for name, count in zip(self.results.table.names, item["voxels"], strict=True):
                figures |= {f"{name}_voxels": str(count), f"{name}_ml": f"{count * ml:.3f}"}
        return figures
