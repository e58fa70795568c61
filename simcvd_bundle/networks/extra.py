"""Further outputs of a network that serve its training only: second decoders, deep outputs, a second network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.networks.blocks import conv_block, up

EXTRA = "extra."
"""What the names of all their tensors begin with; weights for inference have none of them."""


class ExtraDecoder(nn.Module):
    """A second way up from the bottleneck, which differs from the V-Net's own by its upsampling (MC-Net).

    Source: Wu et al., MICCAI 2021, arXiv:2103.02911.

    Args:
        upsampling: one of ``UPSAMPLINGS``.
        levels: channels before the step up, its stride, depth and kernel of the block after it, the coarsest first.
        num_classes: number of foreground classes.
        dropout: channel dropout at the bottleneck and before the output.
    """

    def __init__(
        self,
        upsampling: str,
        levels: Sequence[tuple[int, Sequence[int], int, Sequence[int]]],
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList(up(width, stride, upsampling) for width, stride, _, _ in levels)
        self.decoder = nn.ModuleList(
            conv_block(width // 2, width // 2, depth, kernel) for width, _, depth, kernel in levels
        )
        self.dropout = nn.Dropout3d(dropout)
        self.segmentation = nn.Conv3d(levels[-1][0] // 2, num_classes + 1, 1)

    def forward(self, features: Tensor, skips: list[Tensor], levels: list[Tensor]) -> Tensor:
        """Logits ``(B, C + 1, H, W, D)`` of bottleneck features and skips, the finest skip first."""
        left = skips.copy()
        x = self.dropout(features)
        for grow, block in zip(self.ups, self.decoder):  # noqa: B905 (TorchScript has no strict=)
            x = block(grow(x) + left.pop())
        logits: Tensor = self.segmentation(self.dropout(x))
        return logits


class ScaleHead(nn.Module):
    """Logits of a coarser level of the decoder, brought to full resolution (URPC).

    Source: Luo et al., MICCAI 2021, arXiv:2012.07042.

    Args:
        step: levels above it, at least 1.
        channels: of the level.
        num_classes: number of foreground classes.
        dropout: channel dropout before the convolution.
    """

    def __init__(self, step: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.step = step
        self.dropout = nn.Dropout3d(dropout)
        self.segmentation = nn.Conv3d(channels, num_classes + 1, 1)

    def forward(self, features: Tensor, skips: list[Tensor], levels: list[Tensor]) -> Tensor:
        """Logits ``(B, C + 1, H, W, D)`` of the decoder's levels, the finest last."""
        logits = self.segmentation(self.dropout(levels[-1 - self.step]))
        return F.interpolate(logits, levels[-1].shape[2:], mode="trilinear", align_corners=False)
