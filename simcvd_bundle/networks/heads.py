"""The projection head of SimCVD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SeparableAveragePool(nn.Module):
    """torch's ``AdaptiveAvgPool2d`` to a square as two matrix products; on CPU in a quarter of its time.

    Args:
        size: side of the result.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``(N, C, H, W)`` to ``(N, C, size, size)``."""
        rows, columns = (
            F.adaptive_avg_pool1d(torch.eye(side, device=x.device, dtype=x.dtype), self.size) for side in x.shape[2:]
        )
        return rows.T @ x @ columns


class ProjectionHead(nn.Module):
    """Projection head H: every axial slice of a boundary-aware map becomes one vector (paper, section on networks).

    Alpha dropout -> adaptive pooling to ``pool_size`` squared -> MLP with ReLU -> L2 normalisation. Several classes
    share the head; their vectors are averaged before the normalisation.

    Args:
        dropout: probability of the alpha dropout (paper: 0.1).
        pool_size: side of the pooled slice (paper: 128).
        pooling: ``"average"`` (paper) or ``"max"`` (its ablation).
        widths: output width of each layer of the MLP (the paper says 3 layers; the widths are ours).

    Raises:
        ValueError: when ``pooling`` is neither of the two.
    """

    def __init__(
        self,
        dropout: float = 0.1,
        pool_size: int = 128,
        pooling: str = "average",
        widths: Sequence[int] = (256, 256, 128),
    ) -> None:
        super().__init__()
        pools = {"average": SeparableAveragePool, "max": nn.AdaptiveMaxPool2d}
        if pooling not in pools:
            raise ValueError(f"ProjectionHead: pooling must be one of {sorted(pools)}, got {pooling!r}.")
        self.dropout = nn.AlphaDropout(dropout)
        self.pool = pools[pooling](pool_size)
        layers: list[nn.Module] = []
        for width_in, width_out in zip([pool_size**2, *widths], widths, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, slices: Tensor) -> Tensor:
        """Embed slices.

        Args:
            slices: ``(N, C, H, W)``, one map per foreground class.

        Returns:
            ``(N, widths[-1])`` vectors of length 1.
        """
        pooled: Tensor = self.pool(self.dropout(slices)).flatten(2)
        return F.normalize(self.mlp(pooled).mean(1), dim=1)
