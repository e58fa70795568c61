"""The blocks of the V-Net: convolutions of a level, and the steps between levels."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.blocks import Convolution
from torch import nn

RELU = ("RELU", {"inplace": True})
UPSAMPLINGS = ("transposed", "trilinear", "nearest")
"""Ways up a level: a transposed convolution, or an interpolation and a 3x3x3 convolution."""


def conv_block(channels_in: int, channels_out: int, depth: int, kernel_size: Sequence[int]) -> nn.Sequential:
    """``depth`` times convolution, batch norm, ReLU."""
    return nn.Sequential(
        *(Convolution(3, channels_in if i == 0 else channels_out, channels_out, kernel_size=kernel_size, act=RELU,
                      norm="BATCH")
          for i in range(depth))
    )  # fmt: skip


def down(channels: int, stride: Sequence[int]) -> Convolution:
    """Divide every axis by its stride, double the channels."""
    return Convolution(
        3, channels, 2 * channels, strides=stride, kernel_size=stride, padding=0, act=RELU, norm="BATCH"
    )  # fmt: skip


def up(channels: int, stride: Sequence[int], upsampling: str = "transposed") -> nn.Module:
    """Multiply every axis by its stride, halve the channels.

    Raises:
        ValueError: when ``upsampling`` is none of ``UPSAMPLINGS``.
    """
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"VNet: extra_decoders must be of {', '.join(UPSAMPLINGS)}, got {upsampling!r}.")
    if upsampling == "transposed":
        return Convolution(
            3, channels, channels // 2, strides=stride, kernel_size=stride, padding=0, output_padding=0,
            act=RELU, norm="BATCH", is_transposed=True,
        )  # fmt: skip
    factor = tuple(float(size) for size in stride)
    return nn.Sequential(
        nn.Upsample(scale_factor=factor, mode=upsampling),
        Convolution(3, channels, channels // 2, kernel_size=3, act=RELU, norm="BATCH"),
    )
