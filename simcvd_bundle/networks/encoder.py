"""The way down of the V-Net with a head: pre-training and classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.networks.vnet import VNet


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
        if not widths or any(type(width) is not int or width < 1 for width in widths):
            raise ValueError(f"head_widths must be one or more integers of at least 1, got {list(widths)}.")
        layers: list[nn.Module] = []
        for width_in, width_out in zip([in_features, *widths], widths, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-2])


class VNetEncoder(VNet):
    """Encoder of ``VNet``, a global average over the bottleneck, and an ``MLPHead``; for volumes of any size.

    The encoder's tensors have the names that they have in a ``VNet``, so ``pretrained`` takes the weights of either for
    the other. The head runs in float32 whatever the precision.

    Args:
        head_widths: see ``MLPHead``.
        normalize: scale the output to length 1: what contrastive losses compare by dot products.
        **settings: arguments of ``VNet``; those of its way up (``num_classes``, ``dropout``) have no effect.
    """

    def __init__(self, head_widths: Sequence[int], normalize: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        for name, _ in list(self.named_children()):
            if name not in ("encoder", "downs"):
                delattr(self, name)
        self.normalize = normalize
        self.head = MLPHead(16 * int(settings.get("base_channels", 16)), head_widths)

    def forward(self, x: Tensor, return_all: bool = False) -> Tensor:
        """Embed or classify ``x``.

        Args:
            x: image ``(B, in_channels, H, W, D)``.
            return_all: not used.

        Returns:
            ``(B, head_widths[-1])``, float32: vectors of length 1 with ``normalize``, else what the last layer gives.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"VNet expects an image of shape (B, {self.in_channels}, H, W, D), got {list(x.shape)}.")
        features, _ = self.encode(x)
        with torch.autocast(x.device.type, enabled=False):
            output: Tensor = self.head(features.float().mean((2, 3, 4)))
            return F.normalize(output, dim=1) if self.normalize else output
