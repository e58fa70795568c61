"""The outputs of a prediction: the network's own, and those that its training has besides."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def all_logits(pred: Mapping[str, Tensor]) -> list[Tensor]:
    """Logits ``(B, C + 1, H, W, D)`` of every output, the network's own first (``VNetOutput.extra_logits``)."""
    return [pred["logits"], *pred["extra_logits"].unbind(1)]
