"""Writing of results beside the computation of the next ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from monai.config import KeysCollection
from monai.data import NibabelWriter
from monai.transforms import SaveImaged


class BackgroundWriter:
    """Threads that write files; at most ``max_pending`` results wait for them, so memory stays bounded.

    Args:
        num_threads: number of threads.
        max_pending: results in memory before the next one has to wait.
    """

    def __init__(self, num_threads: int = 2, max_pending: int = 4) -> None:
        self.threads = ThreadPoolExecutor(num_threads)
        self.max_pending = max_pending
        self.pending: deque[Future[Any]] = deque()

    def submit(self, function: Any, *args: Any) -> None:
        """Call ``function`` in a thread; an error of an earlier call is raised here."""
        while len(self.pending) >= self.max_pending:
            self.pending.popleft().result()
        self.pending.append(self.threads.submit(function, *args))

    def finish(self) -> None:
        """Wait until all is written; the first error of a thread is raised here."""
        while self.pending:
            self.pending.popleft().result()


class OwnGridWriter(NibabelWriter):
    """MONAI's NIfTI writer without its resampling, which we never ask for.

    Even then MONAI 1.6 inverts the affine's upper 2 x 2 part (it counts the axes of an array without channels as one
    less), so that it cannot write a sagittal scan, where that part is singular.
    """

    @classmethod
    def resample_if_needed(cls, data_array: Any, affine: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Give array and affine back."""
        return data_array, affine


class SaveInBackgroundd(SaveImaged):
    """MONAI's ``SaveImaged`` in the threads of a writer, whose ``finish`` belongs at the end of the run.

    Args:
        writer: the writer.
        keys: as for ``SaveImaged``.
        **kwargs: as for ``SaveImaged``.
    """

    def __init__(self, writer: BackgroundWriter, keys: KeysCollection, **kwargs: Any) -> None:
        super().__init__(keys, writer=OwnGridWriter, **kwargs)
        self.writer = writer

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Queue the arrays of the keys for writing and return ``data`` as it is."""
        self.writer.submit(super().__call__, dict(data))
        return dict(data)
