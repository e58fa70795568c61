"""The blocks of the V-Net: convolutions of a level, and the steps between levels."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional as F

RELU = ("RELU", {"inplace": True})
UPSAMPLINGS = ("transposed", "trilinear", "nearest")
"""Ways up a level: a transposed convolution, or an interpolation and a 3x3x3 convolution."""


class SameConvolution(Convolution):
    """MONAI's ``Convolution`` with batch norm and ReLU, of stride 1, that keeps the size.

    Two voxels along the first axis are convolved with an empty third one, which changes nothing: without it torch 2.13
    gives wrong gradients of the weights, NaN among them, in bfloat16 on processors with AVX512-bf16 and no AMX (oneDNN;
    measured on an AMD EPYC).

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel_size: along H, W and D.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: Sequence[int] | int = 3) -> None:
        super().__init__(3, channels_in, channels_out, kernel_size=kernel_size, act=RELU, norm="BATCH")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, channels_in, H, W, D)``."""
        two = x.shape[2] == 2
        if two:
            x = F.pad(x, [0, 0, 0, 0, 0, 1])
        x = self.conv(x)  # type: ignore[operator]
        if two:
            x = x.narrow(2, 0, 2)
        out: Tensor = self.adn(x)  # type: ignore[operator]
        return out


def conv_block(channels_in: int, channels_out: int, depth: int, kernel_size: Sequence[int]) -> nn.Sequential:
    """``depth`` times convolution, batch norm, ReLU."""
    return nn.Sequential(
        *(SameConvolution(channels_in if i == 0 else channels_out, channels_out, kernel_size) for i in range(depth))
    )


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
        SameConvolution(channels, channels // 2),
    )
