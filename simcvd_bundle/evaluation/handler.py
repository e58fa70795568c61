"""A handler that measures every case of an evaluation and writes one table and one summary."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.utils.enums import CommonKeys
from monai.utils.misc import ImageMetaKey

from simcvd_bundle.data.names import stem
from simcvd_bundle.evaluation.metrics import METRICS, OVERLAP_METRICS, case_metrics
from simcvd_bundle.utils.atomic import atomically

EMPTY_PREDICTION, EMPTY_LABEL = "empty prediction", "empty label"
# key: whether (pred, label) has foreground
NOTES = {(0, 1): EMPTY_PREDICTION, (1, 0): EMPTY_LABEL, (0, 0): "both empty", (1, 1): ""}


class EvaluationReport:
    """Write ``per_case.csv`` and ``summary.json`` of an evaluation and log its means.

    For every item of the evaluator's output and every foreground class it calls `case_metrics`.
    When the run has completed, the rows of all ranks are gathered, one per case and class (a distributed sampler may
    repeat cases), and rank 0 writes, each file replaced in one step:

    - ``per_case.csv``: ``case``, ``class``, the metrics (overlap in [0, 1]), ``note`` (which mask was empty, if any). A
      case is named after the label's file (the image's if the label has none) without its suffix, with as many parent
      folders as it takes to tell it from the others.
    - ``summary.json``: ``info``; ``overall`` (each row weighs the same) and ``classes``, each with mean, std
      (population, ``numpy.std``), n and excluded (NaN, as both masks are empty) per metric; ``num_empty_predictions``
      (label not empty); ``failures``: the rows with exactly one empty mask, which count with the worst score.

    A run that fails or is terminated writes nothing. Other files in ``output_dir`` and ``engine.state`` stay untouched.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        class_names: Mapping[str, str] | Mapping[int, str],
        info: Mapping[str, Any] | None = None,
        name: str = __name__,
    ) -> None:
        """Check the arguments; nothing is written yet.

        Args:
            output_dir: folder of the two files, made when missing.
            class_names: class index (an int, or a string in JSON) to name; index 0 is background and skipped.
            info: JSON content for ``summary.json``, such as ``{"section": "test"}``.
            name: name of the logger, level INFO.

        Raises:
            ValueError: when ``class_names`` has no foreground class or gives two the same name.
            TypeError: when ``info`` is not JSON content.
        """
        self.output_dir = Path(output_dir)
        self.class_names = {int(index): class_name for index, class_name in class_names.items() if int(index) != 0}
        if not self.class_names or len(set(self.class_names.values())) < len(self.class_names):
            shown = json.dumps(dict(class_names))
            raise ValueError(f"class_names must give every foreground class its own name, got {shown}.")
        self.info = dict(info or {})
        json.dumps(self.info, allow_nan=False)  # fail now, not after the evaluation
        self.logger = logging.getLogger(name)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        """Forget the rows of an earlier run."""
        self.rows = []

    def iteration_completed(self, engine: Engine) -> None:
        """Measure the items of ``engine.state.output``: ``pred`` and ``label`` are class indices of shape (1, H, W, D).

        Raises:
            TypeError: when the output is not a list (not decollated), or a label is not a MetaTensor (no spacing).
            ValueError: when a mask has not exactly one channel, the shapes differ, or no file name is known.
        """
        if not isinstance(engine.state.output, list):
            raise TypeError(f"the output must be a decollated list, got {type(engine.state.output).__name__}.")
        for item in engine.state.output:
            pred, label = item[CommonKeys.PRED], item[CommonKeys.LABEL]
            if not isinstance(label, MetaTensor):
                raise TypeError(f"label must be a MetaTensor, for its spacing, got {type(label).__name__}.")
            if pred.shape[0] != 1 or label.shape[0] != 1:
                raise ValueError(f"pred and label must have one channel, got {pred.shape[0]} and {label.shape[0]}.")
            path = _file_name(label) or _file_name(item.get(CommonKeys.IMAGE))
            if not path:
                raise ValueError("neither label nor image has a file name that identifies the case.")
            spacing_mm = [float(value) for value in affine_to_spacing(label.affine, r=label.ndim - 1)]
            for index, class_name in self.class_names.items():
                p, y = pred[0] == index, label[0] == index
                note = NOTES[bool(p.any()), bool(y.any())]
                self.rows.append({"path": path, "class": class_name, **case_metrics(p, y, spacing_mm), "note": note})

    def completed(self, engine: Engine) -> None:
        """Gather the rows of all ranks; write and log on rank 0, unless the run was terminated on any rank."""
        parts: Any = idist.all_gather({"terminated": bool(engine.should_terminate), "rows": self.rows})
        if idist.get_rank() != 0:
            return
        if any(part["terminated"] for part in parts):
            self.logger.warning("The evaluation was terminated: no report is written.")
            return
        unique = {(row["path"], row["class"]): row for part in parts for row in part["rows"]}
        names = distinct_case_names(path for path, _ in unique)
        rows = sorted(({"case": names[row["path"]], **row} for row in unique.values()), key=lambda row: row["case"])
        classes = {
            name: _statistics([row for row in rows if row["class"] == name]) for name in self.class_names.values()
        }
        failures = [row for row in rows if row["note"] in (EMPTY_PREDICTION, EMPTY_LABEL)]
        num_empty = sum(row["note"] == EMPTY_PREDICTION for row in rows)
        summary = {
            "info": self.info,
            "num_cases": len(names),
            "num_empty_predictions": num_empty,
            "overall": _statistics(rows),
            "classes": classes,
            "failures": [{key: row[key] for key in ("case", "class", "note")} for row in failures],
        }
        text = io.StringIO()
        writer = csv.DictWriter(text, ["case", "class", *METRICS, "note"], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        paths = [self.output_dir / "per_case.csv", self.output_dir / "summary.json"]
        with atomically(paths[0]) as unfinished_csv, atomically(paths[1]) as unfinished_json:
            unfinished_csv.write_text(text.getvalue(), encoding="utf-8")
            unfinished_json.write_text(json.dumps(summary, indent=4, allow_nan=False) + "\n", encoding="utf-8")
        table = _table({**classes, "overall": summary["overall"]})
        self.logger.info(
            "%d cases, %d empty predictions, mean ± std:\n%s\n%s\n%s", len(names), num_empty, table, *paths
        )


def distinct_case_names(paths: Iterable[str]) -> dict[str, str]:
    """Name each path: its last part as `stem` has it, plus the parent folders needed to tell it from the others."""
    parts = {path: (*PurePath(path).parts[:-1], stem(Path(path))) for path in paths}
    names: dict[str, str] = {}
    for depth in range(1, max(map(len, parts.values()), default=0) + 1):
        suffixes = {path: "/".join(part[-depth:]) for path, part in parts.items()}
        count = Counter(suffixes.values())
        names |= {path: name for path, name in suffixes.items() if path not in names and count[name] == 1}
    return {path: names.get(path, path) for path in parts}  # a.nii beside a.nii.gz: the whole path


def _file_name(image: Any) -> str:
    """The file that an image was loaded from; empty when it does not know."""
    return str(image.meta.get(ImageMetaKey.FILENAME_OR_OBJ, "")) if isinstance(image, MetaTensor) else ""


def _statistics(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean, population std, n and number of excluded NaN of every metric; mean and std are None where n is 0."""
    statistics = {}
    for metric in METRICS:
        values = [row[metric] for row in rows if not np.isnan(row[metric])]
        mean, std = (float(np.mean(values)), float(np.std(values))) if values else (None, None)
        statistics[metric] = {"mean": mean, "std": std, "n": len(values), "excluded": len(rows) - len(values)}
    return statistics


def _table(groups: Mapping[str, dict[str, dict[str, Any]]]) -> str:
    """Mean ± std, one line per group: overlap in percent, distances in the unit that their column names."""
    scales = {metric: 100 if metric in OVERLAP_METRICS else 1 for metric in METRICS}
    lines = [["", *(f"{metric} %" if scales[metric] == 100 else metric for metric in METRICS), "n", "excluded"]]
    for name, group in groups.items():
        values = [(scales[metric], group[metric]["mean"], group[metric]["std"]) for metric in METRICS]
        cells = ["-" if mean is None else f"{scale * mean:.2f} ± {scale * std:.2f}" for scale, mean, std in values]
        lines.append([name, *cells, str(group["dice"]["n"]), str(group["dice"]["excluded"])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
