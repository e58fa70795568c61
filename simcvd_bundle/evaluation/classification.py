"""Scores of a classification, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 1000


def top1(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Share of rows ``(N, C)`` whose largest probability is that of their class."""
    return float(np.mean(probabilities.argmax(1) == classes))


def balanced_accuracy(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Mean over the classes that occur of the share of their rows that is found."""
    right = probabilities.argmax(1) == classes
    return float(np.mean([right[classes == index].mean() for index in np.unique(classes)]))


def auc(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Area under the ROC curve of each class against the others, mean over the classes that occur; NaN with one class.

    The probability that a row of the class is given more than one of the others, ties counting half (Mann-Whitney).
    """
    areas = []
    for index in np.unique(classes):
        own = classes == index
        inside, outside = own.sum(), (~own).sum()
        if outside:
            ranks = rankdata(probabilities[:, index])
            areas.append((ranks[own].sum() - inside * (inside + 1) / 2) / (inside * outside))
    return float(np.mean(areas)) if areas else float("nan")


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1": top1, "balanced_accuracy": balanced_accuracy, "auc": auc,
}  # fmt: skip


def confusion_matrix(probabilities: np.ndarray, classes: np.ndarray) -> list[list[int]]:
    """Number of rows by class (outer list) and predicted class."""
    count = probabilities.shape[1]
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (classes, probabilities.argmax(1)), 1)
    result: list[list[int]] = matrix.tolist()
    return result


def classification_scores(
    probabilities: np.ndarray, classes: np.ndarray, subjects: Sequence[Hashable], seed: int = 0
) -> dict[str, Any]:
    """All ``SCORES`` with 95 % intervals, and the confusion matrix.

    Intervals are percentiles of ``RESAMPLES`` bootstrap samples of subjects (Efron): scans of a subject are not
    independent. Samples in which a score is undefined are left out of its interval.

    Args:
        probabilities: ``(N, C)``.
        classes: ``(N,)``, indices.
        subjects: whose row it is.
        seed: seed of the samples.

    Returns:
        By score ``value``, ``low`` and ``high``, ``None`` where undefined; ``confusion_matrix`` and ``n``.

    Raises:
        ValueError: when there is no row.
    """
    if len(classes) == 0:
        raise ValueError("There is no scan with a class to score.")
    rows: dict[Hashable, list[int]] = {}
    for number, subject in enumerate(subjects):
        rows.setdefault(subject, []).append(number)
    groups = list(rows.values())
    random = np.random.default_rng(seed)
    samples = [
        np.concatenate([groups[g] for g in random.integers(len(groups), size=len(groups))]) for _ in range(RESAMPLES)
    ]
    scores: dict[str, Any] = {}
    for name, score in SCORES.items():
        values = np.array([score(probabilities[sample], classes[sample]) for sample in samples])
        values = values[~np.isnan(values)]
        value = score(probabilities, classes)
        low, high = np.percentile(values, [2.5, 97.5]).tolist() if len(values) else (None, None)
        scores[name] = {"value": None if np.isnan(value) else value, "low": low, "high": high}
    return {**scores, "confusion_matrix": confusion_matrix(probabilities, classes), "n": len(classes)}
