"""Mixes: new streams out of the patches of others, their labels and the teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

Mix = Callable[[Mapping[str, Mapping[str, Tensor]]], dict[str, Tensor]]
"""Takes the batch by stream and entry: ``image`` ``(B, channels, H, W, D)`` as the student would see it, the labels of
``labeled`` (``label``, ``sdm``), the teacher's output for ``unlabeled`` (``teacher_logits`` and so on). Returns the
entries of the new stream: ``image``, which the student will see, and the target under names that are none of the
network's outputs. Without gradient; draws from torch's generator."""
