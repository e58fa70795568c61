"""Batch norms folded into their convolutions, for inference."""

from __future__ import annotations

import copy
from typing import cast

from monai.networks.blocks import Convolution
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Copy of a network in which every batch norm after a convolution has become part of the convolution.

    Args:
        network: network in eval mode; the parts built of MONAI's ``Convolution`` are folded, others copied.

    Returns:
        Network of the same function, up to rounding, in less time.
    """
    folded = copy.deepcopy(network)
    for block in folded.modules():
        norm = getattr(block.adn, "N", None) if isinstance(block, Convolution) else None
        if isinstance(norm, nn.BatchNorm3d):
            conv = cast(nn.Conv3d, block.conv)
            block.conv = fuse_conv_bn_eval(conv, norm, isinstance(conv, nn.ConvTranspose3d))
            block.adn.N = nn.Identity()  # type: ignore[union-attr]
    return folded
