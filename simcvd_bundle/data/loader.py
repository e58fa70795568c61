"""The data loader, whose workers fail aloud."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import monai.data
from monai.data import list_data_collate
from torch.utils.data import Dataset, get_worker_info

from simcvd_bundle.utils.workers import SEGMENT, cannot_hand_over, ended_meanwhile


class Loader(monai.data.DataLoader):
    """MONAI's ``DataLoader``, but a batch that a worker cannot hand over is an error, not a wait without end.

    A worker of torch puts a batch into its queue, and a thread moves it to shared memory later: where that fails, for
    want of shared memory or of a place for sockets, the thread drops the batch, and the loader waits for it for ever.
    Here the collate function does it, whose errors torch reports.

    Args:
        dataset: the dataset.
        num_workers: processes that load.
        collate_fn: makes a batch of a list of items.
        **kwargs: as for MONAI's.
    """

    def __init__(
        self, dataset: Dataset[Any], num_workers: int = 0, collate_fn: Callable[..., Any] = list_data_collate,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(dataset, num_workers, collate_fn=partial(_collate, collate_fn), **kwargs)


class _Packed:
    """A batch that has been pickled, its tensors in shared memory; unpickled it is the batch."""

    def __init__(self, batch: Any) -> None:
        self.content = bytes(ForkingPickler.dumps(batch))

    def __reduce__(self) -> tuple[Any, ...]:
        """Give the batch when it is unpickled."""
        return _unpack, (self.content,)


def _unpack(content: bytes) -> Any:
    with ended_meanwhile():
        return pickle.loads(content)


def _collate(collate_fn: Callable[..., Any], items: Sequence[Any]) -> Any:
    if get_worker_info() is None:
        return collate_fn(items)
    with cannot_hand_over(SEGMENT):  # MONAI's collate function makes them too
        batch = collate_fn(items)
    with cannot_hand_over():
        return _Packed(batch)
