"""The weighted sum of named terms, equation (6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightedTerms(nn.Module):
    """``sum_i w_i r_i L_i``: the terms of a method as data, each read from one stream of the batch.

    For SimCVD ``L_seg + alpha L_sdm + r (lambda L_contrast + beta L_pd + gamma L_con)`` (eqs. 1 and 6). A term is a
    module whose ``forward(pred, target)`` reads the named entries of its stream and keeps no state. A term of weight 0
    is computed too, to be watched, if its entries are there.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        terms: by name ``loss``, the module; ``stream``, whose entries it gets; ``weight``, at least 0; and ``ramped``,
            whether the ramp-up applies (default: no).

    Attributes:
        ramp: factor r in [0, 1] of the ramped terms, set from outside at every iteration (``RampUpHandler``).

    Raises:
        ValueError: when a weight is no number of at least 0, or a term with a weight lacks its entries in the batch.
    """

    def __init__(self, terms: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        for name, term in terms.items():
            unknown = term.keys() - {"loss", "stream", "weight", "ramped"}
            missing = {"loss", "stream", "weight"} - term.keys()
            if unknown or missing:
                raise ValueError(
                    f"loss::terms::{name} needs loss, stream and weight and may have ramped; "
                    f"unknown: {', '.join(sorted(unknown)) or 'none'}, missing: {', '.join(sorted(missing)) or 'none'}."
                )
            if isinstance(term["weight"], bool) or not term["weight"] >= 0:
                raise ValueError(f"The weight of the term {name} is {term['weight']}, but must be at least 0.")
        self.losses = nn.ModuleDict({name: term["loss"] for name, term in terms.items()})
        self.streams = {name: term["stream"] for name, term in terms.items()}
        self.weights = {name: term["weight"] for name, term in terms.items()}
        self.ramped = {name for name, term in terms.items() if term.get("ramped", False)}
        self.ramp = 1.0

    def current_weights(self) -> dict[str, float]:
        """Weight of each term by name, ramp-up included."""
        return {name: w * self.ramp if name in self.ramped else w for name, w in self.weights.items()}

    def forward(self, pred: Mapping[str, Mapping[str, Tensor]], target: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Total loss of one batch.

        Args:
            pred: entries by stream, what the inferer returned.
            target: entries by stream, what the labels gave.

        Returns:
            Scalar, float32.
        """
        weights = self.current_weights()
        losses = []
        for name, loss in self.losses.items():
            stream = self.streams[name]
            try:
                losses.append(weights[name] * loss(pred[stream], target[stream]))
            except KeyError as missing:
                if self.weights[name] == 0:
                    continue
                raise ValueError(
                    f"The term {name} needs {missing} of the stream {stream!r}, but the batch has "
                    + "; ".join(f"{key} with {', '.join(entries)}" for key, entries in pred.items())
                    + f". Set {name}_weight to 0, or {stream}_batch_size to at least 1."
                ) from None
        return torch.stack(losses).sum()
