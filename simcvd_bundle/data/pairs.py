"""Positive pairs for contrastive pre-training: which two crops are to be embedded alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from simcvd_bundle.data.iterations import IterationSampler, SampleIndex
from simcvd_bundle.data.subjects import file_of, scans_by_subject

PAIRS = ("view", "patient", "position")


class PairBatchSampler(IterationSampler):
    """Batches of positive pairs of crops, the two of a pair one after the other.

    What makes two crops a pair (``pairs``):

    - ``view``: two augmentations of one crop of a scan (SimCLR, Chen et al., ICML 2020).
    - ``patient``: a crop each of two different scans of a subject, at independent places; of a subject with one scan,
      two crops of it (MICLe, Azizi et al., ICCV 2021). A subject is in a batch once, so no negative is of the same one.
    - ``position``: crops of scans of two different subjects at the same relative place along the last axis, at
      independent places in the plane (Chaitanya et al., NeurIPS 2020; Zeng et al., MICCAI 2021, for slices). The places
      of a batch are spread over the axis, one in each of equal parts, so that no negative lies at the same place.

    Scans (``view``) or subjects take turns in a new random order every time round, and never end. A batch is a pure
    function of seed and iteration, of several processes each takes its share of it.

    Args:
        dataset: its ``data`` is the datalist; `subject_of` says whose an item is.
        pairs: one of the three.
        batch_size: pairs a batch and process, at least 2: one pair has no negative.
        num_iterations: iterations of the whole training.
        seed: seed of all draws.
        rank: this process among ``world_size``.
        world_size: number of processes.

    Raises:
        ValueError: when an argument is out of its range, ``patient`` finds no ``subject``, or there are too few
            subjects.
    """

    def __init__(
        self, dataset: Dataset[Any], pairs: str, batch_size: int, num_iterations: int, seed: int = 0, rank: int = 0,
        world_size: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(num_iterations, seed, rank, world_size)
        if pairs not in PAIRS:
            raise ValueError(f"pairs must be one of {', '.join(PAIRS)}, got {pairs!r}.")
        if type(batch_size) is not int or batch_size < 2:
            raise ValueError(f"batch_size is {batch_size!r}, but must be an integer of at least 2: pairs a batch.")
        self.cases: Sequence[Mapping[str, Any]] = dataset.data  # type: ignore[attr-defined]
        self.pairs = pairs
        self.batch_size = batch_size
        self.subjects = list(scans_by_subject(self.cases).values())
        self.pool = len(self.cases) if pairs == "view" else len(self.subjects)
        without = [item for item in self.cases if item.get("subject") is None]
        if pairs == "patient" and without:
            raise ValueError(
                f"pairs is 'patient', but {file_of(without[0])} of the datalist has no `subject`: name the subject of "
                "every case (init --subject PATTERN does), or set pairs to 'view'."
            )
        needed = {"view": 1, "position": 2, "patient": batch_size * world_size}[pairs]
        if self.pool < needed:
            raise ValueError(
                f"pairs is {pairs!r} with batch_size {batch_size} in {world_size} process(es), which takes {needed} "
                f"{'scans' if pairs == 'view' else 'subjects'}, but the datalist has {self.pool}: "
                "lower batch_size, or set pairs to 'view'."
            )

    def batch(self, iteration: int) -> list[SampleIndex]:
        """Pairs of one iteration (from 0) on this rank: ``2 * batch_size`` samples, partner after partner."""
        total = self.batch_size * self.world_size
        random = np.random.default_rng([self.seed, iteration])
        shift = random.random()  # of the parts of the axis
        chosen = self._round(iteration, total)
        samples = []
        for number, who in enumerate(chosen):  # all processes draw the whole batch, and take their share
            scans, places = self._pair(random, who, (number + random.random()) / total + shift)
            seeds = random.integers(2**32, size=2)
            if number // self.batch_size == self.rank:
                samples += [
                    SampleIndex(scan, int(seed), place) for scan, seed, place in zip(scans, seeds, places, strict=True)
                ]
        return samples

    def _round(self, iteration: int, total: int) -> list[int]:
        """Members of the pool for a batch; none twice where the pool has enough, as a round leaves out its rest."""
        if self.pool < total:
            positions = range(iteration * total, (iteration + 1) * total)
            return [int(self._order(p // self.pool)[p % self.pool]) for p in positions]
        number, place = divmod(iteration, self.pool // total)
        return [int(who) for who in self._order(number)[place * total : (place + 1) * total]]

    def _order(self, number: int) -> np.ndarray:
        return np.random.default_rng([self.seed, number, self.pool]).permutation(self.pool)

    def _pair(self, random: np.random.Generator, who: int, depth: float) -> tuple[list[int], list[tuple[float, ...]]]:
        """The scans of a pair and the relative places of their crops."""
        places = [tuple(random.random(3)) for _ in range(2)]
        if self.pairs == "view":
            return [who, who], [places[0], places[0]]
        if self.pairs == "patient":
            scans = self.subjects[who]
            return [int(s) for s in random.choice(scans, 2, replace=len(scans) == 1)], places
        other = (who + random.integers(1, self.pool)) % self.pool
        scans = [int(random.choice(self.subjects[subject])) for subject in (who, other)]
        return scans, [(*place[:2], depth % 1) for place in places]


def collate_pairs(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """Stack the crops of pairs, first those of the first partners, then those of the second ones, in the same order.

    Args:
        items: partner after partner, ``image`` ``(channels, H, W, D)``.

    Returns:
        ``["pairs"]["image"]``, plain ``(2 N, channels, H, W, D)``; rows n and N + n are a pair.
    """
    images = [convert_to_tensor(item["image"], track_meta=False) for item in items]
    return {"pairs": {"image": torch.stack(images[::2] + images[1::2])}}
