"""Views: what of a batch the student and the teacher see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

View = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Takes images ``(B, channels, H, W, D)`` by stream and returns what is seen instead; draws from torch's generator."""


def seen_through(views: Sequence[View], images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Images after all ``views``, one after the other."""
    seen = dict(images)
    for view in views:
        seen = view(seen)
    return seen


class GaussianNoise:
    """Add clipped Gaussian noise to the unlabelled images: the eta of eq. (5).

    ``clip(N(0, std), -clip, clip)``, as UA-MT (Yu et al., MICCAI 2019); the labelled images stay clean.

    Args:
        std: standard deviation, in units of the (normalised) intensity.
        clip: bound of the noise.

    Raises:
        ValueError: when one of the two is negative.
    """

    def __init__(self, std: float = 0.1, clip: float = 0.2) -> None:
        if not (std >= 0 and clip >= 0):
            raise ValueError(f"GaussianNoise: std and clip must be at least 0, got {std} and {clip}.")
        self.std = std
        self.clip = clip

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Images by stream, the unlabelled ones with noise."""
        if "unlabeled" not in images:
            return dict(images)
        noise = torch.randn_like(images["unlabeled"]).mul_(self.std)
        return {**images, "unlabeled": noise.clamp_(-self.clip, self.clip).add_(images["unlabeled"])}
