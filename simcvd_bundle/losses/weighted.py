"""The weighted sum of named terms, equation (6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightedTerms(nn.Module):
    """``sum_i w_i r_i L_i``: the terms of a method as data, each read from one stream of the batch.

    For SimCVD ``L_seg + alpha L_sdm + r (lambda L_contrast + beta L_pd + gamma L_con)`` (eqs. 1 and 6). A term is a
    module whose ``forward(pred, target)`` reads the named entries of its stream and keeps no state. A term of weight 0
    is computed too, to be watched, if its entries are there. A term may take part from one iteration of the training on
    or until one; outside of its time it is not computed, and its stream, if no other term reads it, costs nothing.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        terms: by name ``loss``, the module; ``stream``, whose entries it gets; ``weight``, at least 0; ``ramped``,
            whether the ramp-up applies (default: no); ``from``, the iterations before its first one (default: 0), and
            ``until``, its last iteration (default: none).

    Attributes:
        ramp: factor r in [0, 1] of the ramped terms, set from outside at every iteration (``RampUpHandler``).
        iteration: the iteration, from 1 on, set together with it.

    Raises:
        ValueError: when a weight is no number of at least 0, a term with a weight lacks its entries in the batch, or no
            term takes part in an iteration.
    """

    def __init__(self, terms: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        for name, term in terms.items():
            unknown = term.keys() - {"loss", "stream", "weight", "ramped", "from", "until"}
            missing = {"loss", "stream", "weight"} - term.keys()
            if unknown or missing:
                raise ValueError(
                    f"loss::terms::{name} needs loss, stream and weight and may have ramped, from and until; "
                    f"unknown: {', '.join(sorted(unknown)) or 'none'}, missing: {', '.join(sorted(missing)) or 'none'}."
                )
            if isinstance(term["weight"], bool) or not term["weight"] >= 0:
                raise ValueError(f"The weight of the term {name} is {term['weight']}, but must be at least 0.")
        self.losses = nn.ModuleDict({name: term["loss"] for name, term in terms.items()})
        self.streams = {name: term["stream"] for name, term in terms.items()}
        self.weights = {name: term["weight"] for name, term in terms.items()}
        self.ramped = {name for name, term in terms.items() if term.get("ramped", False)}
        self.times = {name: (term.get("from", 0), term.get("until", math.inf)) for name, term in terms.items()}
        self.ramp = 1.0
        self.iteration = 1

    def current_weights(self) -> dict[str, float]:
        """Weight by name of each term that takes part in this iteration, ramp-up included."""
        current = [name for name, (first, last) in self.times.items() if first < self.iteration <= last]
        return {name: self.weights[name] * (self.ramp if name in self.ramped else 1.0) for name in current}

    def current_streams(self) -> set[str]:
        """Streams that the terms of this iteration read."""
        return {self.streams[name] for name in self.current_weights()}

    def forward(self, pred: Mapping[str, Mapping[str, Tensor]], target: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Total loss of one batch.

        Args:
            pred: entries by stream, what the inferer returned.
            target: entries by stream, what the labels gave; a stream that a mix made brings its target in ``pred``.

        Returns:
            Scalar, float32.
        """
        losses = []
        for name, weight in self.current_weights().items():
            stream = self.streams[name]
            try:
                losses.append(weight * self.losses[name](pred[stream], target.get(stream, pred[stream])))
            except KeyError as missing:
                if self.weights[name] == 0:
                    continue
                raise ValueError(
                    f"The term {name} needs {missing} of the stream {stream!r}, but the batch has "
                    + "; ".join(f"{key} with {', '.join(entries)}" for key, entries in pred.items())
                    + f". Set {name}_weight to 0, or {stream}_batch_size to at least 1."
                ) from None
        if not losses:
            raise ValueError(
                f"No term of loss::terms takes part in iteration {self.iteration}: see from and until of "
                f"{', '.join(self.weights)}."
            )
        return torch.stack(losses).sum()
