"""What `simcvd_bundle.evaluation.EvaluationReport` wrote, read back and checked."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simcvd_bundle.evaluation.handler import distinct_case_names
from simcvd_bundle.evaluation.metrics import METRICS

COLUMNS = ("case", "class", *METRICS, "note")
REMEDY = "give the output folder of a finished evaluation (configs/evaluate.json)"

Key = tuple[str, str]


@dataclass(frozen=True)
class Evaluation:
    """One evaluated run.

    Attributes:
        name: how the report calls it.
        folder: where it was read from.
        info: ``info`` of its ``summary.json``.
        metrics: (case, class) to metric to value, in the order of ``per_case.csv``; NaN where both masks are empty.
        notes: (case, class) to which mask was empty, or an empty text.
    """

    name: str
    folder: Path
    info: dict[str, Any]
    metrics: dict[Key, dict[str, float]]
    notes: dict[Key, str]

    @property
    def cases(self) -> list[str]:
        """Names of the cases, in the order of the file."""
        return list(dict.fromkeys(case for case, _ in self.metrics))

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the file."""
        return list(dict.fromkeys(class_name for _, class_name in self.metrics))

    @property
    def groups(self) -> dict[str, str | None]:
        """Title of each class to its name and, where there are several, of all classes to ``None``."""
        classes: dict[str, str | None] = {name: name for name in self.classes}
        return {**classes, "all classes together": None} if len(classes) > 1 else classes

    def values(self, class_name: str | None, metric: str) -> list[float]:
        """A metric of every row of a class; ``None`` for the rows of all classes."""
        return [row[metric] for (_, name), row in self.metrics.items() if class_name in (None, name)]


def load_evaluations(folders: Sequence[str], names: Sequence[str] | None = None) -> list[Evaluation]:
    """Read evaluation folders.

    Args:
        folders: folders with ``per_case.csv`` and ``summary.json``.
        names: one name a folder; by default the folder's, with as many parents as it takes to tell it from the others.

    Raises:
        FileNotFoundError: when a folder or a file of it is missing.
        ValueError: when nothing or something twice is given, a file is not what an evaluation writes, or the classes
            of two evaluations differ.
    """
    if not folders:
        raise ValueError(f"No evaluation given: {REMEDY}.")
    names = list(names) if names is not None else folder_names(folders, "evaluations")
    if len(names) != len(folders) or len(set(names)) < len(names) or not all(names):
        raise ValueError(f"names must give each of the {len(folders)} evaluations its own name, got {names}.")
    evaluations = [load_evaluation(Path(folder), name) for folder, name in zip(folders, names, strict=True)]
    check_classes(evaluations)
    return evaluations


def check_classes(evaluations: Sequence[Evaluation]) -> None:
    """Refuse to compare evaluations of different classes.

    Raises:
        ValueError: with the first two that differ.
    """
    first = evaluations[0]
    for other in evaluations[1:]:
        if set(other.classes) != set(first.classes):
            raise ValueError(
                f"The classes of {first.folder} are {first.classes}, those of {other.folder} {other.classes}: "
                "evaluations of different classes need a report each."
            )


def folder_names(folders: Sequence[str], option: str) -> list[str]:
    """Short, distinct names of folders.

    Raises:
        ValueError: when one is given twice; ``option`` is named in the message.
    """
    paths = [str(Path(folder).resolve()) for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{option} names a folder twice: {list(folders)}.")
    names = distinct_case_names(paths)
    return [names[path] for path in paths]


def load_evaluation(folder: Path, name: str) -> Evaluation:
    """Read one evaluation folder.

    Raises:
        FileNotFoundError: when the folder or a file of it is missing.
        ValueError: when a file is not what an evaluation writes.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: {REMEDY}.")
    table, summary = folder / "per_case.csv", folder / "summary.json"
    for path in (table, summary):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {REMEDY}, or repeat the evaluation.")
    metrics: dict[Key, dict[str, float]] = {}
    notes: dict[Key, str] = {}
    with table.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{table} has no column {', '.join(missing)}: {REMEDY}, or repeat the evaluation.")
        for row in reader:
            key = (row["case"], row["class"])
            if key in metrics:
                raise ValueError(f"{table}, line {reader.line_num}: case {key[0]!r}, class {key[1]!r} is there twice.")
            try:
                metrics[key] = {metric: float(row[metric]) for metric in METRICS}
            except (TypeError, ValueError) as error:
                raise ValueError(f"{table}, line {reader.line_num}: a metric is not a number ({error}).") from error
            notes[key] = row["note"] or ""
    if not metrics:
        raise ValueError(f"{table} has no rows: {REMEDY} of at least one case.")
    try:
        info = json.loads(summary.read_text(encoding="utf-8"))["info"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{summary} is not JSON with an entry 'info' ({error}): repeat the evaluation.") from error
    if not isinstance(info, dict):
        raise ValueError(f"'info' of {summary} is not a JSON object: repeat the evaluation.")
    return Evaluation(name, folder, info, metrics, notes)
