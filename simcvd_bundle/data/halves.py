"""Two halves of the unlabelled cases that take turns (ATSO)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from simcvd_bundle.data.batches import StreamBatchSampler
from simcvd_bundle.data.subjects import scans_by_subject


class HalvesBatchSampler(StreamBatchSampler):
    """Batches whose stream ``unlabeled`` draws from one half of its cases in one stage, from the other in the next.

    Subjects are dealt to the halves at random by the seed; all scans of a subject are in one. Up to iteration ``start``
    the stream draws from all.

    Source: Huo et al., CVPR 2021, arXiv:2006.13461 (ATSO).

    Args:
        dataset: see ``StreamBatchSampler``, as ``**settings``.
        start: iterations before the first stage.
        stage_length: iterations of a stage.

    Raises:
        ValueError: when ``start`` is negative or ``stage_length`` below 1, the cases of the stream are of one subject,
            and as ``StreamBatchSampler``.
    """

    def __init__(self, dataset: Dataset[Any], *, start: int, stage_length: int, **settings: Any) -> None:
        super().__init__(dataset, **settings)
        check_stages(start, stage_length)
        cases = self.pools["unlabeled"]
        subjects = list(scans_by_subject(self.cases[case] for case in cases).values())
        if len(subjects) < 2:
            raise ValueError(
                f"The unlabelled cases are of {len(subjects)} subject, but two halves take turns: add unlabelled scans."
            )
        order = np.random.default_rng([self.seed, len(subjects)]).permutation(len(subjects))
        self.halves = [sorted(cases[scan] for subject in order[i::2] for scan in subjects[subject]) for i in (0, 1)]
        self.first_stage, self.stage_length = start, stage_length

    def pool(self, stream: str, iteration: int) -> list[int]:
        """Cases that a stream draws from at an iteration (from 0)."""
        if stream != "unlabeled" or iteration < self.first_stage:
            return super().pool(stream, iteration)
        return self.halves[(iteration - self.first_stage) // self.stage_length % 2]


def check_stages(start: int, stage_length: int) -> None:
    """Raise ``ValueError`` when stages cannot be of such a start and length."""
    if start < 0 or stage_length < 1:
        raise ValueError(
            f"Stages need a start of at least 0 and a stage_length of at least 1, got {start} and {stage_length}."
        )
