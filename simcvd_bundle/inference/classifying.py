"""The pass of a classifier of whole scans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

from simcvd_bundle.utils.precision import autocast, known_precision


class ScanInferer(Inferer):
    """Logits of a batch of whole scans, in training and evaluation.

    Args:
        precision: one of ``PRECISIONS`` or ``"auto"``.

    Raises:
        ValueError: for an unknown ``precision``.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
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
            ``scans`` with ``logits`` ``(B, C)``.
        """
        images = inputs["scans"]["image"]
        with autocast(images, self.precision):
            return {"scans": {"logits": network(images)}}
