"""The way down of the V-Net alone, and the heads on what it gives: pre-training and classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.networks.vnet import VNet


class VNetEncoder(VNet):
    """Encoder of ``VNet`` and a global average over the bottleneck: one vector for a volume of any size.

    Its tensors have the names that they have in a ``VNet``, so ``pretrained`` takes the weights of either for the
    other.

    Args:
        **settings: arguments of ``VNet``; those of its way up (``num_classes``, ``dropout``) have no effect.

    Attributes:
        num_features: length of the vector, 16 times ``base_channels``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, _ in list(self.named_children()):
            if name not in ("encoder", "downs"):
                delattr(self, name)
        self.num_features = 16 * int(settings.get("base_channels", 16))

    def forward(self, x: Tensor, return_all: bool = False) -> Tensor:
        """Embed ``x``.

        Args:
            x: image ``(B, in_channels, H, W, D)``.
            return_all: not used.

        Returns:
            ``(B, num_features)``: the mean of the bottleneck features over space.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"VNet expects an image of shape (B, {self.in_channels}, H, W, D), got {list(x.shape)}.")
        features, _ = self.encode(x)
        return features.mean((2, 3, 4))


class MLPHead(nn.Sequential):
    """Fully connected layers, batch norm and ReLU between them.

    The projection head of SimCLR has two layers, that of SimCLRv2 three; a linear classifier is one. SimCLR's batch
    norm behind the last layer is left out: with the few pairs of a laptop's batch it would tell more of the batch than
    of the crop.

    Args:
        in_features: width of the input.
        widths: width of each layer's output, one at least.

    Raises:
        ValueError: when there is no layer or a width below 1.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"MLPHead: widths must be one or more numbers of at least 1, got {list(widths)}.")
        layers: list[nn.Module] = []
        for width_in, width_out in zip([in_features, *widths], widths, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-2])


class EmbeddingHead(MLPHead):
    """``MLPHead`` whose output has length 1: what contrastive losses compare by dot products."""

    def forward(self, features: Tensor) -> Tensor:
        """Embed features ``(B, in_features)`` as ``(B, widths[-1])``."""
        return F.normalize(super().forward(features), dim=1)  # type: ignore[no-untyped-call]
