"""The contrastive loss of pre-training: NT-Xent, or moving-average keys and a queue."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from simcvd_bundle.losses.info_nce import info_nce
from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


class NTXentLoss(nn.Module):
    """Each crop of a batch of N pairs finds its partner, by ``info_nce`` in both directions, averaged.

    Without keys: ``l(i, j) = -log( exp(z_i . z_j / tau) / sum_(k != i) exp(z_i . z_k / tau) )`` over the 2 N crops,
    NT-Xent (Chen et al., ICML 2020, arXiv:2002.05709). With ``keys``, a teacher's embeddings of the same crops, each
    query is compared with the keys of the other side of the batch and with the ``queue`` of earlier keys, which makes
    up for few pairs a batch (He et al., CVPR 2020, arXiv:1911.05722; both directions as in Chen et al., ICCV 2021).

    Args:
        temperature: tau (SimCLR: 0.1 to 0.5).

    Raises:
        ValueError: when ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = positive("NTXentLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of the embeddings of pairs.

        Args:
            pred: ``embeddings`` ``(2 N, C)`` of length 1, row N + n the partner of row n; with a teacher ``keys`` of
                the same shape and ``queue`` ``(M, C)``, detached here.
            target: not read.

        Returns:
            Scalar, float32; ``log(2 N - 1)`` when all embeddings are equal, with keys ``log(N + M)``.
        """
        first, second = pred["embeddings"].chunk(2)
        if "keys" not in pred:
            loss = [
                info_nce(query, key, self.temperature, among_queries=True)
                for query, key in ((first, second), (second, first))
            ]
        else:
            first_key, second_key = pred["keys"].detach().chunk(2)
            queue = pred["queue"].detach()
            loss = [
                info_nce(query, key, self.temperature, negatives=queue)
                for query, key in ((first, second_key), (second, first_key))
            ]
        return (loss[0] + loss[1]) / 2
