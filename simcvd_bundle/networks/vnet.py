"""The V-Net with a segmentation and an SDM branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.networks.blocks import conv_block, down, up
from simcvd_bundle.networks.extra import ExtraDecoder, ScaleHead


class VNetOutput(NamedTuple):
    """What training needs of one forward pass over ``(B, in_channels, H, W, D)`` with ``C`` foreground classes.

    Attributes:
        logits: ``(B, C + 1, H, W, D)``, background first.
        sdm: ``(B, C, H, W, D)``, signed distance maps in [-1, 1], negative inside.
        features: ``(B, 16 * base_channels, H / 16, W / 16, D / 16)``, the bottleneck before its dropout, rounded up;
            with other strides than 2 divided by their product along the axis.
        extra_logits: ``(B, K, C + 1, H, W, D)``, those of the K further outputs (decoders, scales or a second network)
            that training alone has; ``None`` without.
        embedding: ``(B, E, H, W, D)``, a vector for each voxel, which training alone has; ``None`` without.
    """

    logits: Tensor
    sdm: Tensor
    features: Tensor
    extra_logits: Tensor | None = None
    embedding: Tensor | None = None

    def entries(self) -> dict[str, Tensor]:
        """What there is, by name."""
        return {name: entry for name, entry in self._asdict().items() if entry is not None}

    def split(self, sizes: Sequence[int]) -> list[VNetOutput]:
        """Parts of ``sizes`` volumes each, in order."""
        parts = {name: torch.split(entry, list(sizes)) for name, entry in self.entries().items()}
        return [VNetOutput(**{name: part[i] for name, part in parts.items()}) for i in range(len(sizes))]


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
        extra_decoders: upsampling of each further decoder, one of ``UPSAMPLINGS`` (MC-Net: ``trilinear``, ``nearest``).
        scales: deep outputs besides the one at full resolution, of the coarser levels of the decoder (URPC: 3).

    Extra decoders and scales serve training only: a plain call leaves them out, and so do exported weights.

    Raises:
        ValueError: when an argument is out of its range, both kinds of extra outputs are asked for, or the input is not
            ``(B, in_channels, H, W, D)``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        base_channels: int = 16,
        dropout: float = 0.5,
        strides: Sequence[Sequence[int]] = ((2, 2, 2),) * 4,
        kernel_sizes: Sequence[Sequence[int]] = ((3, 3, 3),) * 5,
        extra_decoders: Sequence[str] = (),
        scales: int = 0,
    ) -> None:
        super().__init__()
        if min(in_channels, num_classes, base_channels) < 1:
            raise ValueError(
                f"VNet needs in_channels, num_classes and base_channels of at least 1, "
                f"got {in_channels}, {num_classes} and {base_channels}."
            )
        require_triples("strides", strides, 4, (1, 2))
        require_triples("kernel_sizes", kernel_sizes, 5, (1, 3))
        if isinstance(scales, bool) or scales not in range(4) or (scales and extra_decoders):
            raise ValueError(
                "VNet: scales must be 0 to 3, the coarser levels of the decoder, and 0 with extra_decoders, got scales "
                f"{scales} and extra_decoders {list(extra_decoders)}."
            )
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
        levels = [(channels[4 - i], strides[3 - i], depths[3 - i], kernel_sizes[3 - i]) for i in range(4)]
        self.extra: nn.Module = nn.ModuleList(
            [ExtraDecoder(kind, levels, num_classes, dropout) for kind in extra_decoders]
            + [ScaleHead(step, channels[step], num_classes, dropout) for step in range(1, scales + 1)]
        )
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
        levels = self.decode_levels(features, skips)
        decoded = self.dropout(levels[-1])
        logits: Tensor = cropped(self.segmentation(decoded), x)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if return_all:
                extra, embedding = self.extra_logits(x, features, skips, levels), self.embedding(x, levels)
                sdm = torch.tanh(cropped(self.sdm(decoded), x))
                return VNetOutput(logits, sdm, features, extra, embedding)  # type: ignore[return-value]
        return logits

    @torch.jit.unused
    def extra_logits(self, x: Tensor, features: Tensor, skips: list[Tensor], levels: list[Tensor]) -> Tensor | None:
        """Logits of the extra decoders or scales, see ``VNetOutput``, of what ``encode`` and ``decode_levels`` gave."""
        branches: Any = self.extra
        outputs = [cropped(branch(features, skips, levels), x) for branch in branches]
        return torch.stack(outputs, 1) if outputs else None

    @torch.jit.unused
    def embedding(self, x: Tensor, levels: list[Tensor]) -> Tensor | None:
        """A vector for each voxel, see ``VNetOutput``, of what ``decode_levels`` gave; this network has none."""
        return None

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

    def decode_levels(self, features: Tensor, skips: list[Tensor]) -> list[Tensor]:
        """Features of the decoder's four levels, the finest last, of what ``encode`` returned; of the padded image."""
        left, levels = skips.copy(), [self.dropout(features)]
        for grow, block in zip(self.ups, self.decoder):  # noqa: B905
            levels.append(block(grow(levels[-1]) + left.pop()))
        return levels[1:]


def cropped(padded: Tensor, x: Tensor) -> Tensor:
    """Output of the padded image, cut to where ``x`` was in it."""
    for axis in range(2, 5):
        surplus = padded.shape[axis] - x.shape[axis]
        if surplus > 0:  # a cut of nothing is no free one: its gradient is a copy, in another layout
            padded = padded.narrow(axis, surplus // 2, x.shape[axis])
    return padded


def require_triples(name: str, triples: Sequence[Sequence[int]], count: int, allowed: Sequence[int]) -> None:
    """Raise ``ValueError`` unless ``triples`` are ``count`` triples of ``allowed`` numbers."""
    if len(triples) != count or any(len(t) != 3 or not set(t) <= set(allowed) for t in triples):
        raise ValueError(
            f"VNet: {name} must be {count} lists of 3 numbers, each {' or '.join(map(str, allowed))}, "
            f"got {[list(t) for t in triples]}."
        )
