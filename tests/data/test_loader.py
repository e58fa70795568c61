"""The loader gives what MONAI's gives, and a worker that cannot hand over a batch is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import monai.data
import pytest
import torch
from monai.data import MetaTensor

from simcvd_bundle.data.loader import Loader
from simcvd_bundle.utils.workers import worker_errors


def items() -> list[dict[str, Any]]:
    affine = torch.diag(torch.tensor([2.0, 3, 4, 1]))
    return [{"image": MetaTensor(torch.full((1, 3, 4), float(n)), affine=affine), "name": f"{n}"} for n in range(5)]


def refuse(batch: Sequence[Any]) -> Any:
    """A batch that cannot be pickled."""
    return (value for value in batch)


def first(batch: Sequence[Any]) -> Any:
    return batch[0]


def reset() -> None:
    raise ConnectionResetError(104, "Connection reset by peer")


class Broken:
    """A batch whose worker is ended while it is fetched, before torch sees that the process is gone."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Fail where the batch is unpickled."""
        return reset, ()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_those_of_monai(workers: int) -> None:
    for own, other in zip(
        Loader(items(), workers, batch_size=2), monai.data.DataLoader(items(), batch_size=2), strict=True
    ):
        assert own["name"] == other["name"]
        assert torch.equal(own["image"].as_tensor(), other["image"].as_tensor())
        assert torch.equal(own["image"].affine, other["image"].affine)
        assert own["image"].is_batch


def test_a_batch_that_cannot_be_sent_is_an_error() -> None:
    """MONAI's loader waits for it without end."""
    with pytest.raises(
        TypeError, match=r"Caught TypeError in DataLoader worker process 0(.|\n)*cannot pickle 'generator'"
    ):
        next(iter(Loader(items(), 1, collate_fn=refuse)))
    next(iter(Loader(items(), 0, collate_fn=refuse)))


def test_a_worker_that_ends_while_its_batch_is_fetched_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"^A worker of the data loader was ended .*reset by peer.*--num_workers 0"):
        with worker_errors():
            next(iter(Loader([Broken()], 1, collate_fn=first)))
