"""InfoNCE between two sets of vectors, of one process or gathered from all: equation (2)."""

from __future__ import annotations

import ignite.distributed as idist
import torch
from torch import Tensor
from torch.nn import functional as F

from simcvd_bundle.utils.distributed import gather_rows


def info_nce(
    queries: Tensor, keys: Tensor, temperature: float, negatives: Tensor | None = None, among_queries: bool = False,
    excluded: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Cross-entropy of finding the own key of each query among all keys.

    ``l(a_n, b_n) = -log( exp(a_n . b_n / tau) / sum_m exp(a_n . b_m / tau) )`` (eq. 2), mean over the queries. The sum
    runs over the keys of all processes, and each process takes the mean over its own queries: the mean over processes
    is the loss of the whole global batch, in value and gradient.

    Source: eq. (2) of You et al., IEEE TMI 2022; van den Oord et al., arXiv:1807.03748.

    Args:
        queries: ``(N, C)``; dot products are taken as they are, so normalised by whoever made them.
        keys: ``(N, C)``, row n belongs to query n.
        temperature: tau, above 0.
        negatives: ``(M, C)``, further keys that belong to no query, the same in all processes: those of earlier batches
            (He et al., CVPR 2020).
        among_queries: the sum also runs over the other queries; the mean over both directions is then NT-Xent (Chen et
            al., ICML 2020).
        excluded: ``(N, keys of all processes)``, bool, keys that are no negatives of a query; its own key counts
            whatever it says.

    Returns:
        Scalar; ``log`` of the number of keys when all vectors are equal (``N`` of all processes without further ones),
        0 when there is one.

    Raises:
        ValueError: when the two sets differ in shape, are not ``(N, C)`` or empty.
    """
    if queries.dim() != 2 or queries.shape != keys.shape or queries.numel() == 0:
        raise ValueError(
            f"info_nce expects two equal, non-empty sets of shape (N, C), got {list(queries.shape)} and "
            f"{list(keys.shape)}."
        )
    first = idist.get_rank() * len(queries)
    own = torch.arange(first, first + len(queries), device=queries.device)
    products = [queries @ gather_rows(keys).T]
    if excluded is not None:
        products[0] = products[0].masked_fill(excluded.scatter(1, own[:, None], False), -torch.inf)
    if among_queries:
        itself = F.one_hot(own, idist.get_world_size() * len(queries)).bool()
        products.append((queries @ gather_rows(queries).T).masked_fill(itself, -torch.inf))
    if negatives is not None:
        products.append(queries @ negatives.T)
    return F.cross_entropy(torch.cat(products, 1) / temperature, own)
