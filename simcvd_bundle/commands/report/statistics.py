"""Statistics of one evaluation, and paired tests of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel, wilcoxon

from simcvd_bundle.commands.report.evaluations import Evaluation, Key


@dataclass(frozen=True)
class Metric:
    """How the report shows a column of ``per_case.csv``: title with unit, factor to that unit, direction."""

    title: str
    scale: float
    higher_is_better: bool


METRICS = {
    "dice": Metric("Dice %", 100, True),
    "jaccard": Metric("Jaccard %", 100, True),
    "hd95_voxel": Metric("95HD voxel", 1, False),
    "asd_voxel": Metric("ASD voxel", 1, False),
}

FAILURE_DICE = 0.1
"""A Dice below it counts as a failure; an empty prediction of a class that is there has Dice 0."""

MIN_PAIRS = 6
"""With fewer pairs a two-sided Wilcoxon test cannot fall below 0.05: its smallest p is 2 / 2^n."""


@dataclass(frozen=True)
class Summary:
    """Mean, population standard deviation and median of n values (None if there are none); NaN are excluded."""

    mean: float | None
    std: float | None
    median: float | None
    n: int
    excluded: int


@dataclass(frozen=True)
class PairedTest:
    """A run against the baseline, in the unit of ``per_case.csv``; a p is None where it cannot be computed."""

    n: int
    better: int
    worse: int
    mean_difference: float | None
    p_ttest: float | None
    p_wilcoxon: float | None
    note: str


def number(value: float | None, digits: int = 2) -> str:
    """A number as text, a dash for none."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def summarize(values: Sequence[float]) -> Summary:
    """Describe values; NaN (both masks empty) are counted and left out."""
    kept = [value for value in values if not np.isnan(value)]
    if not kept:
        return Summary(None, None, None, 0, len(values))
    return Summary(
        float(np.mean(kept)), float(np.std(kept)), float(np.median(kept)), len(kept), len(values) - len(kept)
    )


def paired_values(
    evaluation: Evaluation, baseline: Evaluation, class_name: str | None, metric: str
) -> tuple[list[float], list[float]]:
    """Values of the cases that both evaluations measured (not NaN).

    Args:
        evaluation: the run.
        baseline: the run to compare with.
        class_name: a class; ``None`` for the mean over the classes of a case that both measured, so that a case is one
            pair and not several dependent ones.
        metric: column of ``per_case.csv``.

    Returns:
        Values of the run and of the baseline, in the same order of cases.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for (case, name), row in evaluation.metrics.items():
        other = baseline.metrics.get((case, name))
        if class_name in (None, name) and other is not None:
            pair = (row[metric], other[metric])
            if not np.isnan(pair).any():
                pairs.setdefault(case, []).append(pair)
    means = [np.mean(values, axis=0) for values in pairs.values()]
    return [float(mean[0]) for mean in means], [float(mean[1]) for mean in means]


def paired_test(values: Sequence[float], baseline: Sequence[float], higher_is_better: bool) -> PairedTest:
    """Two-sided paired t-test and Wilcoxon signed-rank test.

    Args:
        values: metric of the run, one a case.
        baseline: metric of the baseline for the same cases.
        higher_is_better: whether a larger value is a better one.
    """
    differences = np.subtract(values, baseline)
    n, gain = len(differences), differences if higher_is_better else -differences
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    mean = float(differences.mean()) if n else None
    if n < MIN_PAIRS:
        return PairedTest(n, better, worse, mean, None, None, f"no test: fewer than {MIN_PAIRS} common cases")
    if better + worse == 0:
        return PairedTest(n, better, worse, mean, None, None, "no test: equal in every case")
    no_spread = np.allclose(differences, differences[0], rtol=1e-9, atol=0)  # t is infinite
    p_ttest = None if no_spread else float(ttest_rel(values, baseline).pvalue)
    return PairedTest(n, better, worse, mean, p_ttest, float(wilcoxon(values, baseline).pvalue), "")


def failures(evaluation: Evaluation, class_name: str | None = None) -> list[Key]:
    """The (case, class) with a Dice below ``FAILURE_DICE``, worst first."""
    dice = {key: row["dice"] for key, row in evaluation.metrics.items() if class_name in (None, key[1])}
    return sorted((key for key, value in dice.items() if value < FAILURE_DICE), key=lambda key: (dice[key], key))


def case_dice(evaluation: Evaluation) -> dict[str, float]:
    """Mean Dice over the classes of every case, lowest first; a case in which nothing was measured is left out."""
    values: dict[str, list[float]] = {}
    for (case, _), row in evaluation.metrics.items():
        if not np.isnan(row["dice"]):
            values.setdefault(case, []).append(row["dice"])
    means = {case: float(np.mean(dice)) for case, dice in values.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))
