"""Mirrored passes at test time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import Inferer
from torch import Tensor

FLIPS = ([2], [3], [2, 3])
"""Axes of the plane of the slices, as training mirrors patches in it only."""


class MirroredInferer(Inferer):
    """The mean of what an inferer gives for a volume and for its three mirror images in the plane; four times the work.

    Args:
        inferer: gives ``(B, channels, H, W, D)``.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """As the inferer."""
        total: Tensor = self.inferer(inputs, network)
        for axes in FLIPS:
            total = total + self.inferer(inputs.flip(axes), network).flip(axes)
        return total / (len(FLIPS) + 1)
