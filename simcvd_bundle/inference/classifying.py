"""The pass of a classifier of whole scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from simcvd_bundle.utils.precision import autocast, known_precision


class ScanInferer(Inferer):
    """Logits of a batch of whole scans, in training and evaluation; in distillation also those of a teacher.

    Args:
        precision: one of ``PRECISIONS`` or ``"auto"``, for both networks.
        teacher: ``network``, which sees the same scans without gradient (``frozen_teacher``); ``None`` for none.

    Raises:
        ValueError: for an unknown ``precision``.
    """

    def __init__(self, precision: str = "auto", teacher: nn.ModuleDict | None = None) -> None:
        super().__init__()
        self.teacher = teacher
        self.precision = known_precision(precision)

    def __call__(  # type: ignore[override]
        self, inputs: Mapping[str, Mapping[str, Tensor]], network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, dict[str, Tensor]]:
        """Classify scans.

        Args:
            inputs: ``scans`` with ``image`` ``(B, channels, H, W, D)``.
            network: a ``VNetEncoder``.
            *args: not used (MONAI's signature).
            **kwargs: not used.

        Returns:
            ``scans`` with ``logits`` ``(B, C)`` and, with a teacher, ``teacher_logits``, the same shape.
        """
        images = inputs["scans"]["image"]
        with autocast(images, self.precision):
            pred = {"logits": network(images)}
            if self.teacher is not None:
                with torch.no_grad():
                    pred["teacher_logits"] = self.teacher["network"](images)
        return {"scans": pred}
