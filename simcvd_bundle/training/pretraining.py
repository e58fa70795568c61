"""The pass of contrastive pre-training, and the queue of earlier keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from torch import Tensor, nn

from simcvd_bundle.utils.distributed import gather_rows
from simcvd_bundle.utils.precision import autocast, known_precision


class KeyQueue(nn.Module):
    """The last keys of all processes, oldest replaced first (He et al., CVPR 2020); empty at the start.

    Args:
        size: number of keys; keep it below that of crops which differ, or it holds the partners of the batch. 0 keeps
            none.
        width: length of a key.

    Raises:
        ValueError: when ``size`` is negative.
    """

    keys: Tensor
    seen: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        if type(size) is not int or size < 0:
            raise ValueError(f"queue_size is {size!r}, but must be an integer of at least 0.")
        self.register_buffer("keys", torch.zeros(size, width))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def filled(self) -> Tensor:
        """The keys so far, ``(min(seen, size), width)``; a copy, as the loss needs them until its gradient."""
        return self.keys[: int(self.seen)].clone()

    def push(self, keys: Tensor) -> None:
        """Take keys ``(N, width)`` in; of more than fit the last."""
        size = len(self.keys)
        numbers = torch.arange(len(keys), device=keys.device)[-size:]
        self.keys[(self.seen + numbers) % size] = keys[numbers]
        self.seen += len(keys)


class KeyQueueHandler:
    """Put the teacher's keys of an iteration into the queue, when its loss has been computed.

    Args:
        queue: the queue.
    """

    def __init__(self, queue: KeyQueue) -> None:
        self.queue = queue

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        """Push the keys of this iteration, those of all processes."""
        output: Any = engine.state.output
        self.queue.push(gather_rows(output["pred"]["pairs"]["keys"]))


class ContrastiveInferer(Inferer):
    """Embed a batch of pairs: the student with gradient and, where there is a queue, the teacher without.

    Args:
        teacher: ``network``, a ``VNetEncoder`` in train mode: the moving average that gives the keys.
        queue: earlier keys; one of size 0 needs no teacher, and negatives are the other crops of the batch.
        precision: one of ``PRECISIONS`` or ``"auto"``, for the two encoders.

    Raises:
        ValueError: for an unknown ``precision``.
    """

    def __init__(self, teacher: nn.ModuleDict, queue: KeyQueue, precision: str = "auto") -> None:
        super().__init__()
        self.teacher = teacher
        self.queue = queue
        self.precision = known_precision(precision)

    def __call__(  # type: ignore[override]
        self, inputs: Mapping[str, Mapping[str, Tensor]], network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, dict[str, Tensor]]:
        """Embed the crops.

        Args:
            inputs: ``pairs`` with ``image``, crops ``(2 N, channels, H, W, D)``.
            network: the student, a ``VNetEncoder`` that normalises, in train mode.
            *args: not used (MONAI's signature).
            **kwargs: not used.

        Returns:
            ``pairs`` with what ``NTXentLoss`` reads: ``embeddings`` and, with a queue, ``keys`` ``(2 N, C)`` and
            ``queue`` ``(M, C)``.
        """
        crops = inputs["pairs"]["image"]
        with autocast(crops, self.precision):
            pred = {"embeddings": network(crops)}
        if len(self.queue.keys):
            with torch.no_grad(), autocast(crops, self.precision):
                keys = self.teacher["network"](crops)
            pred |= {"keys": keys, "queue": self.queue.filled()}
        return {"pairs": pred}
