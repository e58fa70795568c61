"""Views: what of a batch the student and the teacher see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from monai.transforms import AdjustContrast
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


class RandomIntensity:
    """Another contrast, brightness and gamma for each unlabelled patch; the labelled images stay as they are.

    ``a x + b`` after MONAI's ``AdjustContrast`` with gamma, all drawn evenly: a strong view, as AD-MT's (Zhao et al.,
    ECCV 2024, arXiv:2311.17325) and FixMatch's.

    Args:
        contrast: a lies in [1 - contrast, 1 + contrast].
        brightness: b lies in [-brightness, brightness], in units of the (normalised) intensity.
        gamma: range of gamma.

    Raises:
        ValueError: when contrast is not in [0, 1), brightness negative, or gamma no range of positive numbers.
    """

    def __init__(self, contrast: float = 0.25, brightness: float = 0.25, gamma: Sequence[float] = (0.7, 1.5)) -> None:
        if not (0 <= contrast < 1 and brightness >= 0 and len(gamma) == 2 and 0 < gamma[0] <= gamma[1]):
            raise ValueError(
                "RandomIntensity: contrast must lie in [0, 1), brightness be at least 0 and gamma a range of positive "
                f"numbers, got {contrast}, {brightness} and {list(gamma)}."
            )
        self.ranges = (1 - contrast, 1 + contrast), (-brightness, brightness), tuple(gamma)

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Images by stream, each unlabelled patch with its own intensities."""
        if "unlabeled" not in images:
            return dict(images)
        return {**images, "unlabeled": torch.stack([self._changed(image) for image in images["unlabeled"]])}

    def _changed(self, image: Tensor) -> Tensor:
        scale, shift, gamma = (low + (high - low) * float(torch.rand(())) for low, high in self.ranges)
        return torch.as_tensor(AdjustContrast(gamma)(image)).to(image) * scale + shift
