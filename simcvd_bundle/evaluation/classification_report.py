"""The handler that writes what a classifier says of each scan and subject, and how well it does."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events

from simcvd_bundle.data.subjects import file_of
from simcvd_bundle.evaluation.classification import SCORES, classification_scores
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)


class ClassificationReport:
    """Write ``per_case.csv``, ``per_subject.csv`` and ``summary.json`` of a classification, and log its scores.

    A subject's probabilities are the mean over its scans. The tables have the probability of every class, the predicted
    class and, where it is known, the true one; the summary ``scans`` and ``subjects``, each as `classification_scores`
    returns them, or ``null`` where classes are unknown. Rows of several processes are gathered, process 0 writes.

    Args:
        output_dir: folder of the files, made when missing.
        items: the items of the evaluator's dataset, see ``load_classes``.
        classes: names of the classes.
        info: JSON content for the summary.
    """

    def __init__(
        self, output_dir: str, items: Sequence[Mapping[str, Any]], classes: Sequence[str],
        info: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.output_dir = Path(output_dir)
        self.items = items
        self.classes = classes
        self.info = dict(info or {})
        self.probabilities: dict[int, list[float]] = {}

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator with ``decollate=False``."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self) -> None:
        """Forget the rows of an earlier run."""
        self.probabilities = {}

    def __call__(self, engine: Engine) -> None:
        """Remember the probabilities of this batch."""
        output: Any = engine.state.output
        numbers = output["label"]["scans"]["number"].tolist()
        rows = output["pred"]["scans"]["logits"].double().softmax(1).tolist()
        self.probabilities |= dict(zip(numbers, rows, strict=True))

    def write(self, engine: Engine) -> None:
        """Gather all rows, write the files and log the scores."""
        parts: Any = idist.all_gather({"rows": self.probabilities})
        parts = parts if isinstance(parts, list) else [parts]
        rows = {number: row for part in parts for number, row in part["rows"].items()}
        if idist.get_rank() != 0:
            return
        numbers = sorted(rows)
        items = [self.items[number] for number in numbers]
        scans = np.array([rows[number] for number in numbers])
        owners = [item["subject"] for item in items]
        subjects = list(dict.fromkeys(owners))
        means = np.array([scans[[owner == subject for owner in owners]].mean(0) for subject in subjects])
        known = all("class" in item for item in items)
        class_of = {item["subject"]: item.get("class") for item in items}
        tables = {
            "per_case.csv": self._table([{"case": file_of(item), "subject": item["subject"]} for item in items],
                                        scans, [item.get("class") for item in items]),
            "per_subject.csv": self._table([{"subject": subject} for subject in subjects], means,
                                           [class_of[subject] for subject in subjects]),
        }  # fmt: skip
        summary: dict[str, Any] = {"info": self.info, "classes": list(self.classes), "scans": None, "subjects": None}
        if known:
            summary["scans"] = classification_scores(scans, np.array([item["class"] for item in items]), owners)
            summary["subjects"] = classification_scores(means, np.array([class_of[s] for s in subjects]), subjects)
        tables["summary.json"] = json.dumps(summary, indent=4, allow_nan=False) + "\n"
        for name, text in tables.items():
            with atomically(self.output_dir / name) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        lines = [f"{kind}: {self._scores(summary[kind])}" for kind in ("scans", "subjects") if known]
        logger.info("%s", "\n".join([f"{len(items)} scans of {len(subjects)} subjects", *lines, str(self.output_dir)]))

    def _table(self, names: Sequence[Mapping[str, str]], rows: np.ndarray, classes: Sequence[int | None]) -> str:
        text = io.StringIO()
        probabilities = [f"p_{name}" for name in self.classes]
        writer = csv.DictWriter(text, [*names[0], "class", "predicted", *probabilities], lineterminator="\n")
        writer.writeheader()
        for name, row, index in zip(names, rows, classes, strict=True):
            known = {"class": "" if index is None else self.classes[index]}
            numbers = {key: f"{value:.6f}" for key, value in zip(probabilities, row, strict=True)}
            writer.writerow({**name, **known, "predicted": self.classes[int(row.argmax())], **numbers})
        return text.getvalue()

    @staticmethod
    def _scores(scores: Mapping[str, Any]) -> str:
        parts = []
        for name in SCORES:
            score = scores[name]
            parts.append(
                f"{name} undefined" if score["value"] is None
                else f"{name} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
            )  # fmt: skip
        return f"{', '.join(parts)}; n {scores['n']}"
