"""The weighted sum of named terms, equation (6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils import ensure_tuple
from torch import Tensor, nn

REMEDIES = {
    "extra_logits": "Give network_def extra_decoders or scales, or make it a TwinNetwork.",
    "teacher_mean": "Set train::inferer::teacher_samples to at least 1.",
}
"""What to do where an entry of this name is missing."""


def together(batch: Mapping[str, Mapping[str, Tensor]], streams: Sequence[str]) -> Mapping[str, Tensor]:
    """Entries of one stream, or what several have in common, one after the other along the batch."""
    first, *others = (batch[stream] for stream in streams)
    if not others:
        return first
    common = [name for name in first if all(name in entries for entries in others)]
    return {name: torch.cat([first[name], *(entries[name] for entries in others)]) for name in common}


class WeightedTerms(nn.Module):
    """``sum_i w_i r_i L_i``: the terms of a method as data, each read from one stream of the batch.

    For SimCVD ``L_seg + alpha L_sdm + r (lambda L_contrast + beta L_pd + gamma L_con)`` (eqs. 1 and 6). A term is a
    module whose ``forward(pred, target)`` reads the named entries of its stream, the scalar ``ramp`` among them, and
    keeps no state. A term of weight 0 is computed too, to be watched, if its entries are there. A term may take part
    from one iteration of the training on or until one; outside of its time it is not computed, and its stream, if no
    other term reads it, costs nothing.

    Source: You et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3161829.

    Args:
        terms: by name ``loss``, the module; ``stream``, whose entries it gets, or a list of streams, whose patches it
            gets together; ``weight``, at least 0; ``ramped``, whether the ramp-up applies (default: no); ``from``, the
            iterations before its first one (default: 0), and ``until``, its last iteration (default: none).

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
        self.streams = {name: ensure_tuple(term["stream"]) for name, term in terms.items()}
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
        """Streams that the terms of this iteration with a weight read."""
        return {stream for name in self._weighted() for stream in self.streams[name]}

    def needs_teacher(self) -> bool:
        """Whether a term of this iteration with a weight reads the teacher's predictions.

        A loss that does not says so by ``reads_teacher = False``.
        """
        return any(
            "unlabeled" in self.streams[name] and getattr(self.losses[name], "reads_teacher", True)
            for name in self._weighted()
        )

    def _weighted(self) -> list[str]:
        return [name for name in self.current_weights() if self.weights[name] > 0]

    def forward(self, pred: Mapping[str, Mapping[str, Tensor]], target: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        """Total loss of one batch, scalar, float32: the sum of `by_name`, with its arguments and errors."""
        return torch.stack(list(self.by_name(pred, target).values())).sum()

    def by_name(
        self, pred: Mapping[str, Mapping[str, Tensor]], target: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Each term of this iteration, with its weight.

        Args:
            pred: entries by stream, what the inferer returned.
            target: entries by stream, what the labels gave; a stream that a mix made brings its target in ``pred``.

        Returns:
            Scalars, float32.

        Raises:
            ValueError: when a term with a weight lacks an entry, or no term takes part in this iteration.
        """
        losses = {}
        targets = {**pred, **target}
        ramp = torch.tensor(self.ramp)
        for name, weight in self.current_weights().items():
            streams = self.streams[name]
            try:
                entries = {**together(pred, streams), "ramp": ramp}
                losses[name] = weight * self.losses[name](entries, together(targets, streams))
            except KeyError as missing:
                if self.weights[name] == 0:
                    continue
                remedy = REMEDIES.get(missing.args[0]) or (
                    f"Set {name}_weight to 0, or {streams[-1]}_batch_size to at least 1."
                )
                raise ValueError(
                    f"The term {name} needs {missing} of the stream {' and '.join(map(repr, streams))}, but the batch "
                    f"has {'; '.join(f'{key} with ' + ', '.join(has) for key, has in pred.items())}. {remedy}"
                ) from None
        if not losses:
            raise ValueError(
                f"No term of loss::terms takes part in iteration {self.iteration}: see from and until of "
                f"{', '.join(self.weights)}."
            )
        return losses
