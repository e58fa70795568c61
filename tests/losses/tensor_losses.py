"""The losses as functions of tensors in a fixed order, for tests that compute one by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from simcvd_bundle import losses

ENTRIES: dict[Any, tuple[tuple[str, ...], tuple[str, ...]]] = {
    losses.SegmentationLoss: (("logits",), ("label",)),
    losses.RegionSegmentationLoss: (("logits",), ("soft_label", "pseudo")),
    losses.SignedDistanceLoss: (("sdm",), ("sdm",)),
    losses.BoundaryContrastiveLoss: (("embeddings", "teacher_embeddings"), ()),
    losses.PairwiseDistillationLoss: (("features", "teacher_features"), ()),
    losses.ConsistencyLoss: (("logits", "sdm", "teacher_logits", "teacher_sdm"), ()),
}
"""Entries of ``pred`` and of ``target`` that a loss reads."""


class TensorLoss:
    """A loss that takes its entries one after the other."""

    def __init__(self, loss: nn.Module) -> None:
        self.loss = loss

    def __call__(self, *tensors: Tensor) -> Tensor:
        of_pred, of_target = ENTRIES[type(self.loss)]
        pred = dict(zip(of_pred, tensors, strict=False))
        result: Tensor = self.loss(pred, dict(zip(of_target, tensors[len(of_pred) :], strict=True)))
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss, name)


def of_tensors(kind: Callable[..., nn.Module]) -> Callable[..., TensorLoss]:
    """Constructor of ``kind`` as a ``TensorLoss``."""
    return lambda *args, **kwargs: TensorLoss(kind(*args, **kwargs))
