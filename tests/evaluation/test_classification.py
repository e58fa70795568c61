"""Scores of a classification against naive loops and MONAI, and the tables of a report."""

from __future__ import annotations

import csv
import json
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_roc_auc

from simcvd_bundle.evaluation.classification import auc, balanced_accuracy, classification_scores, top1
from simcvd_bundle.evaluation.classification_report import ClassificationReport
from simcvd_bundle.losses import ClassificationLoss


def sample(rows: int = 40, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(classes), rows).round(1)  # with ties
    return probabilities, random.integers(classes, size=rows)


def naive_auc(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Share of pairs, one of the class and one of the others, that are in order; ties are half in order."""
    areas = []
    for index in sorted(set(classes.tolist())):
        own, others = probabilities[classes == index, index], probabilities[classes != index, index]
        areas.append(np.mean([(a > b) + (a == b) / 2 for a, b in product(own, others)]))
    return float(np.mean(areas))


def test_auc_is_the_naive_loop_and_that_of_monai() -> None:
    probabilities, classes = sample()
    one_hot = torch.nn.functional.one_hot(torch.as_tensor(classes))
    assert auc(probabilities, classes) == pytest.approx(naive_auc(probabilities, classes))
    assert auc(probabilities, classes) == pytest.approx(compute_roc_auc(torch.as_tensor(probabilities), one_hot))


def test_scores_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    classes = np.array([0, 0, 0, 1])
    assert top1(probabilities, classes) == 0.5
    assert balanced_accuracy(probabilities, classes) == pytest.approx((2 / 3 + 0) / 2)
    assert auc(probabilities, classes) == pytest.approx(2 / 3)
    scores = classification_scores(probabilities, classes, list("abcd"))
    assert scores["confusion_matrix"] == [[2, 1], [1, 0]]
    assert scores["n"] == 4


def test_intervals_are_of_subjects_and_contain_the_value() -> None:
    """Doubling every scan of a subject changes nothing; as subjects of their own the interval is narrower."""
    probabilities, classes = sample()
    subjects = list(range(40))
    once = classification_scores(probabilities, classes, subjects)
    doubled = probabilities.repeat(2, 0), classes.repeat(2)
    twice = classification_scores(*doubled, np.repeat(subjects, 2).tolist())
    apart = classification_scores(*doubled, list(range(80)))
    for name in ("top1", "balanced_accuracy", "auc"):
        assert once[name] == pytest.approx(twice[name])
        assert once[name]["low"] < once[name]["value"] < once[name]["high"]
        assert apart[name]["high"] - apart[name]["low"] < once[name]["high"] - once[name]["low"]


def test_one_class_has_no_auc_and_no_row_no_score() -> None:
    scores = classification_scores(np.array([[0.9, 0.1]]), np.array([0]), ["a"])
    assert scores["auc"] == {"value": None, "low": None, "high": None}
    assert scores["top1"]["value"] == 1
    with pytest.raises(ValueError, match="no scan with a class"):
        classification_scores(np.zeros((0, 2)), np.zeros(0, int), [])


def test_the_loss_weighs_classes() -> None:
    """The naive sum over scans, divided by the sum of their weights."""
    logits = torch.tensor([[1.0, 0.0], [0.5, 0.2], [0.0, 3.0]])
    target, weights = torch.tensor([0, 1, 1]), [1.0, 3.0]
    naive = sum(-weights[c] * row.log_softmax(0)[c] for row, c in zip(logits, target.tolist(), strict=True)) / 7
    torch.testing.assert_close(ClassificationLoss(weights)({"logits": logits}, {"class": target}), naive)


def test_the_loss_passes_over_scans_of_unknown_class() -> None:
    """They change neither value nor gradient; without any other, and with weights of 0 alone, the loss is 0."""
    loss = ClassificationLoss([1.0, 3.0])
    logits = torch.tensor([[1.0, 0.0], [9.0, -9.0], [0.0, 3.0]], requires_grad=True)
    value = loss({"logits": logits}, {"class": torch.tensor([0, -100, 1])})
    torch.testing.assert_close(value, loss({"logits": logits[[0, 2]]}, {"class": torch.tensor([0, 1])}))
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient.abs().sum(1) > 0).tolist() == [True, False, True]
    for silent, classes in ((loss, [-100] * 3), (ClassificationLoss([0.0, 1.0]), [0, 0, -100])):
        value = silent({"logits": logits}, {"class": torch.tensor(classes)})
        assert float(value) == 0
        assert not torch.autograd.grad(value, logits)[0].any()


def report(folder: Path, items: list[dict[str, Any]], logits: list[list[float]]) -> dict[str, Any]:
    handler = ClassificationReport(str(folder), items, ["x", "y"], {"section": "test"})
    for number, row in enumerate(logits):
        handler(_engine([number], [row]))
    handler.write(_engine([0], [logits[0]]))
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def _engine(numbers: list[int], logits: list[list[float]]) -> Any:
    output = {
        "label": {"scans": {"number": torch.tensor(numbers)}},
        "pred": {"scans": {"logits": torch.tensor(logits)}},
    }
    return SimpleNamespace(state=SimpleNamespace(output=output))


def test_a_subject_is_the_mean_of_its_scans(tmp_path: Path) -> None:
    items = [{"image": f"{n}.nii", "subject": who, "class": int(who == "b")} for n, who in enumerate("aab")]
    log = [[float(np.log(p)), float(np.log(1 - p))] for p in (0.9, 0.3, 0.2)]
    summary = report(tmp_path, items, log)
    rows = list(csv.DictReader((tmp_path / "per_subject.csv").open()))
    assert [(row["subject"], row["class"], row["predicted"], float(row["p_x"])) for row in rows] == [
        ("a", "x", "x", pytest.approx(0.6)), ("b", "y", "y", pytest.approx(0.2)),
    ]  # fmt: skip
    assert [row["predicted"] for row in csv.DictReader((tmp_path / "per_case.csv").open())] == ["x", "y", "y"]
    assert summary["scans"]["confusion_matrix"] == [[1, 1], [0, 1]]
    assert summary["subjects"]["confusion_matrix"] == [[1, 0], [0, 1]]
    assert summary["subjects"]["top1"]["value"] == 1


def test_without_classes_there_are_tables_but_no_scores(tmp_path: Path) -> None:
    summary = report(tmp_path, [{"image": "0.nii", "subject": "0.nii", "number": 0}], [[0.0, 1.0]])
    assert summary["scans"] is None
    [row] = csv.DictReader((tmp_path / "per_case.csv").open())
    assert (row["class"], row["predicted"]) == ("", "y")
