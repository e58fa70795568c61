"""Supervised contrast of voxels: those of one class are alike, those of others differ."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.utils.precision import in_float32

SAMPLINGS = ("stride", "block")


def supervised_contrast(vectors: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Supervised contrast within each of several sets (Khosla et al., NeurIPS 2020, arXiv:2004.11362, L_out).

    ``-1 / |P(i)| sum_(p in P(i)) log(exp(z_i . z_p / tau) / sum_(a != i) exp(z_i . z_a / tau))``, P(i) the others of
    the set with the class of i; mean over the vectors that have any.

    Args:
        vectors: ``(sets, N, E)``, of length 1.
        classes: ``(sets, N)``.
        temperature: tau, above 0.

    Returns:
        Scalar; 0 when no vector has another one of its class.
    """
    itself = torch.eye(vectors.shape[1], dtype=torch.bool, device=vectors.device)
    products = vectors @ vectors.mT / temperature
    log_share = products - products.masked_fill(itself, -torch.inf).logsumexp(2, keepdim=True)
    positive = (classes[:, :, None] == classes[:, None]) & ~itself
    counts = positive.sum(2)
    found = counts > 0
    losses = -torch.where(positive, log_share, 0.0).sum(2)[found] / counts[found]
    return losses.sum() / max(len(losses), 1)


class LocalContrastLoss(nn.Module):
    """Supervised contrast of the embeddings of labelled voxels, drawn by stride or by blocks.

    ``stride`` takes every n-th voxel along each axis from a random first one, all patches together; ``block`` compares
    within cubes of n voxels a side, some of all those of the batch, drawn at random. Axes that are shorter than n take
    one voxel or the whole axis.

    Source: Hu et al., MICCAI 2021, arXiv:2109.07407, there in 2D.

    Args:
        sampling: one of ``SAMPLINGS``.
        size: n, in voxels.
        num_blocks: blocks an iteration.
        temperature: of the softmax, above 0.

    Raises:
        ValueError: when one of them is out of its range.
    """

    reads_teacher = False

    def __init__(self, sampling: str = "stride", size: int = 8, num_blocks: int = 16, temperature: float = 0.1) -> None:
        super().__init__()
        if sampling not in SAMPLINGS or size < 1 or num_blocks < 1 or not temperature > 0:
            raise ValueError(
                f"LocalContrastLoss: sampling must be one of {', '.join(SAMPLINGS)}, size and num_blocks at least 1 "
                f"and temperature positive, got {sampling!r}, {size}, {num_blocks} and {temperature}."
            )
        self.sampling = sampling
        self.size = size
        self.num_blocks = num_blocks
        self.temperature = temperature

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of labelled patches.

        Args:
            pred: ``embedding`` ``(B, E, H, W, D)``, of any length.
            target: ``label`` ``(B, 1, H, W, D)``, class indices.

        Returns:
            Scalar, float32.
        """
        draw = self._strided if self.sampling == "stride" else self._blocks
        vectors, classes = draw(pred["embedding"], target["label"])
        return supervised_contrast(F.normalize(vectors, dim=-1), classes[..., 0], self.temperature)

    def _strided(self, *entries: Tensor) -> list[Tensor]:
        """The same voxels of each ``(B, channels, H, W, D)`` -> ``(1, N, channels)``."""
        firsts = [int(torch.randint(min(self.size, length), ())) for length in entries[0].shape[2:]]
        x, y, z = (slice(first, None, self.size) for first in firsts)
        return [entry[:, :, x, y, z].movedim(1, -1).flatten(0, -2)[None] for entry in entries]

    def _blocks(self, *entries: Tensor) -> list[Tensor]:
        """The same blocks of each ``(B, channels, H, W, D)`` -> ``(blocks, N, channels)``, without what is over."""
        sides = [min(self.size, length) for length in entries[0].shape[2:]]
        counts = [length // side for length, side in zip(entries[0].shape[2:], sides, strict=True)]
        shape = (len(entries[0]), *counts)
        chosen = torch.randperm(math.prod(shape), device=entries[0].device)[: self.num_blocks]
        b, x, y, z = torch.unravel_index(chosen, shape)
        drawn = []
        for entry in entries:
            for axis, side in enumerate(sides, 2):
                entry = entry.unfold(axis, side, side)  # a view
            drawn.append(entry[b, :, x, y, z].movedim(1, -1).flatten(1, 3))
        return drawn
