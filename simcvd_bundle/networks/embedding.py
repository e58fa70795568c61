"""A network that gives a vector for each voxel too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from simcvd_bundle.networks.vnet import VNet, cropped


class EmbeddingNetwork(VNet):
    """A V-Net with a 1x1x1 convolution beside its output branches, whose vectors serve training only.

    Source: Hu et al., MICCAI 2021, arXiv:2109.07407 (supervised local contrast).

    Args:
        embedding_size: channels of the vectors.
        **settings: see ``VNet``.

    Raises:
        ValueError: when ``embedding_size`` is below 1, or there are other extra outputs.
    """

    def __init__(self, embedding_size: int = 16, **settings: Any) -> None:
        super().__init__(**settings)
        if embedding_size < 1 or len(self.extra):  # type: ignore[arg-type]
            raise ValueError(
                "EmbeddingNetwork: embedding_size must be at least 1, and its vectors are the extra output, so no "
                f"extra_decoders and scales; got embedding_size {embedding_size}."
            )
        self.extra = nn.Conv3d(self.segmentation.in_channels, embedding_size, 1)

    @torch.jit.unused
    def extra_logits(self, x: Tensor, *levels: Any) -> Tensor | None:
        """There are none."""
        return None

    @torch.jit.unused
    def embedding(self, x: Tensor, levels: list[Tensor]) -> Tensor | None:
        """Vectors of any length ``(B, embedding_size, H, W, D)``."""
        return cropped(self.extra(levels[-1]), x)
