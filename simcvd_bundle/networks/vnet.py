"""The V-Net with a segmentation and an SDM branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.nn import functional as F

RELU = ("RELU", {"inplace": True})


class VNetOutput(NamedTuple):
    """What training needs of one forward pass over ``(B, in_channels, H, W, D)`` with ``C`` foreground classes.

    Attributes:
        logits: ``(B, C + 1, H, W, D)``, background first.
        sdm: ``(B, C, H, W, D)``, signed distance maps in [-1, 1], negative inside.
        features: ``(B, 16 * base_channels, H / 16, W / 16, D / 16)``, the bottleneck before its dropout, rounded up;
            with other strides than 2 divided by their product along the axis.
    """

    logits: Tensor
    sdm: Tensor
    features: Tensor


def split_output(pred: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Part what inferers give for one volume.

    Args:
        pred: ``(C + 1, *spatial)`` or, with signed distance maps, ``(2 C + 1, *spatial)``.
        num_classes: number of foreground classes ``C``.

    Returns:
        Probabilities of background and classes ``(C + 1, *spatial)``, and signed distance maps ``(C, *spatial)`` or
        none ``(0, *spatial)``.
    """
    return pred[: num_classes + 1], pred[num_classes + 1 :]


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


def up(channels: int, stride: Sequence[int]) -> Convolution:
    """Multiply every axis by its stride, halve the channels."""
    return Convolution(
        3, channels, channels // 2, strides=stride, kernel_size=stride, padding=0, output_padding=0,
        act=RELU, norm="BATCH", is_transposed=True,
    )  # fmt: skip


class VNet(nn.Module):
    """V-Net of the compared papers (UA-MT, DTC, SimCVD): 3x3x3 convolutions, batch norm, ReLU, additive skips.

    MONAI's own ``VNet`` is another network (5x5x5 kernels, 45.6 M parameters, about six times slower), so the published
    figures need this one (9.4 M parameters with the default arguments).

    Any spatial size is accepted: the input is zero-padded symmetrically to the next multiple of the product of the
    strides along each axis (16 voxels by default) and the outputs are cropped back.

    Thick slices need strides and kernels by axis, as in nnU-Net: ten slices cannot be halved four times, and neighbours
    10 mm away do not belong into a 3x3x3 kernel of 1.5 mm. The defaults are the published isotropic network.

    Args:
        in_channels: channels of the image.
        num_classes: number of foreground classes ``C``; the segmentation branch has ``C + 1`` channels, the SDM branch
            (1x1x1 convolution + tanh, as in DTC) has ``C``.
        base_channels: channels at full resolution; the bottleneck has 16 times as many.
        dropout: channel dropout at the bottleneck and before the output branches (one of SimCVD's perturbations).
        strides: for each of the four steps down the stride along H, W and D, 1 or 2; undone on the way up.
        kernel_sizes: for each of the five levels the kernel along H, W and D, 1 or 3.

    Raises:
        ValueError: when an argument is out of its range, or the input is not ``(B, in_channels, H, W, D)``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        base_channels: int = 16,
        dropout: float = 0.5,
        strides: Sequence[Sequence[int]] = ((2, 2, 2),) * 4,
        kernel_sizes: Sequence[Sequence[int]] = ((3, 3, 3),) * 5,
    ) -> None:
        super().__init__()
        if min(in_channels, num_classes, base_channels) < 1:
            raise ValueError(
                f"VNet needs in_channels, num_classes and base_channels of at least 1, "
                f"got {in_channels}, {num_classes} and {base_channels}."
            )
        require_triples("strides", strides, 4, (1, 2))
        require_triples("kernel_sizes", kernel_sizes, 5, (1, 3))
        channels = [base_channels * 2**level for level in range(5)]
        depths = (1, 2, 3, 3, 3)
        first = (in_channels, *channels[1:])  # a step down doubles the channels already
        self.in_channels = in_channels
        self.multiples = [math.prod(stride[axis] for stride in strides) for axis in range(3)]
        self.encoder = nn.ModuleList(map(conv_block, first, channels, depths, kernel_sizes))
        self.downs = nn.ModuleList(map(down, channels[:4], strides))
        self.ups = nn.ModuleList(map(up, channels[:0:-1], reversed(strides)))
        self.decoder = nn.ModuleList(
            map(conv_block, channels[3::-1], channels[3::-1], depths[3::-1], kernel_sizes[3::-1])
        )
        self.dropout = nn.Dropout3d(dropout)
        self.segmentation = nn.Conv3d(base_channels, num_classes + 1, 1)
        self.sdm = nn.Conv3d(base_channels, num_classes, 1)
        # measured on CPU: a training step is 1.2 to 1.6 times faster in this layout; it survives .to() and deepcopy
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, x: Tensor, return_all: bool = False) -> Tensor:
        """Segment ``x``.

        Args:
            x: image ``(B, in_channels, H, W, D)``.
            return_all: return a ``VNetOutput`` instead (training; not available in TorchScript, where one graph has
                one return type).

        Returns:
            Logits ``(B, num_classes + 1, H, W, D)``, no softmax applied.
        """
        if x.dim() != 5 or x.shape[1] != self.in_channels:
            raise ValueError(f"VNet expects an image of shape (B, {self.in_channels}, H, W, D), got {list(x.shape)}.")
        features, skips = self.encode(x)
        decoded = self.decode(features, skips)
        for axis in range(2, 5):
            decoded = decoded.narrow(axis, (decoded.shape[axis] - x.shape[axis]) // 2, x.shape[axis])
        logits: Tensor = self.segmentation(decoded)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if return_all:
                return VNetOutput(logits, torch.tanh(self.sdm(decoded)), features)  # type: ignore[return-value]
        return logits

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode an image of any size.

        Args:
            x: image ``(B, in_channels, H, W, D)``; it is zero-padded here.

        Returns:
            Bottleneck features before dropout, see ``VNetOutput``, and the skips of the four levels above, the finest
            first; they are those of the padded image.
        """
        pads: list[int] = []
        for axis in range(4, 1, -1):  # F.pad counts axes from the last
            missing = -x.shape[axis] % self.multiples[axis - 2]  # four strided convolutions
            pads += [missing // 2, missing - missing // 2]
        x = F.pad(x, pads)
        skips: list[Tensor] = []
        for block, shrink in zip(self.encoder, self.downs):  # noqa: B905 (TorchScript has no strict=)
            x = block(x)
            skips.append(x)
            x = shrink(x)
        return self.encoder[4](x), skips

    def decode(self, features: Tensor, skips: list[Tensor]) -> Tensor:
        """Features at full resolution, after dropout, of what ``encode`` returned; of the padded image."""
        left = skips.copy()
        x = self.dropout(features)
        for grow, block in zip(self.ups, self.decoder):  # noqa: B905
            x = block(grow(x) + left.pop())
        decoded: Tensor = self.dropout(x)
        return decoded


def require_triples(name: str, triples: Sequence[Sequence[int]], count: int, allowed: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``triples`` are ``count`` triples of ``allowed`` numbers."""
    if len(triples) != count or any(len(t) != 3 or not set(t) <= set(allowed) for t in triples):
        raise ValueError(
            f"VNet: {name} must be {count} lists of 3 numbers, each {' or '.join(map(str, allowed))}, "
            f"got {[list(t) for t in triples]}."
        )
