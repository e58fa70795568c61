"""What ``experiment`` wrote, read back: its finished runs, by what may be compared, method and labelled cases."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simcvd_bundle.commands.experiment import CONFIG, RECORD, method_name
from simcvd_bundle.commands.report.evaluations import Evaluation, check_classes, load_evaluation
from simcvd_bundle.evaluation.metrics import METRICS

DIFFERENT = ("files", "content of overlays", "fold", "seed", "num_labeled", "datalist", "iterations", "log_interval")
"""Entries of a record's ``run`` that tell methods, seeds and folds apart, or that ``settings`` has."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One evaluation of one run.

    Attributes:
        folder: the run's.
        method: what its overlays are called.
        num_labeled: labelled cases, with folds those of the whole; ``None`` when all labels of the data are used.
        seed: its seed.
        fold: number of its fold.
        settings: what has to be equal in a comparison, as text.
        others: further settings, as text; where they differ the page says so.
        dataset_dir: folder of the data.
        datalist: list of the evaluated cases.
        evaluation: the scores.
    """

    folder: Path
    method: str
    num_labeled: int | None
    seed: int
    fold: int | None
    settings: dict[str, str]
    others: dict[str, str]
    dataset_dir: str
    datalist: str
    evaluation: Evaluation

    def case(self, name: str) -> str:
        """Name of a case among those of all folds; each fold names its own cases apart, and no others."""
        return name if self.fold is None else f"fold {self.fold}: {name}"


@dataclass(frozen=True)
class Group:
    """The runs of one method with one number of labelled cases.

    Attributes:
        name: how the report calls it.
        method: name of the method.
        num_labeled: labelled cases.
        runs: all seeds and folds.
        seeds: seed to its scores, all its folds together.
        mean: every value the mean over the seeds in which it was measured.
    """

    name: str
    method: str
    num_labeled: int | None
    runs: list[EvaluatedRun]
    seeds: dict[int, Evaluation]
    mean: Evaluation


@dataclass(frozen=True)
class Comparison:
    """Groups of equal settings, by number of labelled cases and method.

    Attributes:
        settings: what they have in common, as text.
        groups: the groups.
    """

    settings: dict[str, str]
    groups: list[Group]

    @property
    def runs(self) -> list[EvaluatedRun]:
        """The runs of all groups."""
        return [run for group in self.groups for run in group.runs]

    @property
    def by_number(self) -> list[list[Group]]:
        """Groups of each number of labelled cases."""
        numbers = dict.fromkeys(group.num_labeled for group in self.groups)
        return [[group for group in self.groups if group.num_labeled == number] for number in numbers]


def find_runs(folder: Path) -> tuple[list[EvaluatedRun], list[str]]:
    """Read the folder of an experiment.

    Args:
        folder: ``output_dir`` of ``experiment``.

    Returns:
        The evaluations of all runs, and of each run without one its name and what it lacks.

    Raises:
        FileNotFoundError: when there is no run.
        ValueError: when no run is finished, or a file is not what ``experiment`` writes.
    """
    records = sorted(folder.glob(f"*/{RECORD}"))
    if not records:
        raise FileNotFoundError(
            f"{folder} holds no run (no */{RECORD}): give the output_dir of `experiment`, or evaluations."
        )
    evaluated: list[EvaluatedRun] = []
    unfinished: list[str] = []
    for record in records:
        found = [_load(record, summary.parent) for summary in sorted(record.parent.glob("eval_*/summary.json"))]
        evaluated += found
        if not found:
            trained = (record.parent / "model.pt").is_file()
            unfinished.append(f"{record.parent.name} ({'not evaluated' if trained else 'not trained to its end'})")
    if not evaluated:
        raise ValueError(
            f"No run in {folder} is finished: {', '.join(unfinished)}. Start the experiment again with the same "
            "command."
        )
    return evaluated, unfinished


def compare(runs: Sequence[EvaluatedRun], baseline: str | None) -> list[Comparison]:
    """Put runs together that may be compared, the baseline's group first of each number of labelled cases.

    Raises:
        ValueError: when no run is of the method ``baseline``, a case occurs twice in a seed, or classes differ.
    """
    methods = sorted({run.method for run in runs})
    if baseline is not None and baseline not in methods:
        raise ValueError(f"No finished run is of the method {baseline!r}: choose baseline from {methods}.")
    by_settings: dict[str, list[EvaluatedRun]] = {}
    for run in sorted(runs, key=lambda run: (run.num_labeled or 0, run.method != baseline, run.method)):
        by_settings.setdefault(json.dumps(run.settings), []).append(run)
    different = differing([members[0].settings for members in by_settings.values()])
    comparisons = []
    for _, members in sorted(by_settings.items()):
        settings = members[0].settings
        suffix = ", ".join(f"{key} {settings.get(key, '-')}" for key in different)
        by_group: dict[tuple[str, int | None], list[EvaluatedRun]] = {}
        for run in members:
            by_group.setdefault((run.method, run.num_labeled), []).append(run)
        groups = [_group(method, number, group, suffix) for (method, number), group in by_group.items()]
        check_classes([group.mean for group in groups])
        comparisons.append(Comparison(settings, groups))
    return comparisons


def default_baseline(runs: Sequence[EvaluatedRun]) -> str:
    """The method ``supervised`` if it was run, else the first by name."""
    methods = sorted({run.method for run in runs})
    return "supervised" if "supervised" in methods else methods[0]


def differing(settings: Iterable[Mapping[str, str]]) -> list[str]:
    """Keys whose values are not equal in all of ``settings``."""
    settings = list(settings)
    keys = dict.fromkeys(key for values in settings for key in values)
    return [key for key in keys if len({values.get(key) for values in settings}) > 1]


def average(name: str, evaluations: Sequence[Evaluation], info: dict[str, Any]) -> Evaluation:
    """The mean of every value over the evaluations in which it was measured (not NaN)."""
    keys = dict.fromkeys(key for evaluation in evaluations for key in evaluation.metrics)
    metrics = {}
    for key in keys:
        rows = [evaluation.metrics[key] for evaluation in evaluations if key in evaluation.metrics]
        measured = {metric: [row[metric] for row in rows if not math.isnan(row[metric])] for metric in METRICS}
        metrics[key] = {metric: float(np.mean(values)) if values else math.nan for metric, values in measured.items()}
    return Evaluation(name, evaluations[0].folder, info, metrics, dict.fromkeys(keys, ""))


def _group(method: str, number: int | None, runs: list[EvaluatedRun], suffix: str) -> Group:
    about = [*([] if number is None else [f"{number} labelled"]), *([suffix] if suffix else [])]
    name = _name(method, about)
    seeds = {
        seed: _pool(_name(method, [*about, f"seed {seed}"]), seed, runs) for seed in sorted({r.seed for r in runs})
    }
    info = {key: value for key, value in runs[0].evaluation.info.items() if key != "weights"}
    info |= {"num_labeled": number, "seeds": ", ".join(map(str, seeds)), "iterations": runs[0].settings["iterations"]}
    return Group(name, method, number, runs, seeds, average(name, list(seeds.values()), info))


def _name(method: str, about: Sequence[str]) -> str:
    return f"{method} ({', '.join(about)})" if about else method


def _pool(name: str, seed: int, runs: Sequence[EvaluatedRun]) -> Evaluation:
    """The folds of a seed as one evaluation."""
    parts = [run for run in runs if run.seed == seed]
    metrics: dict[tuple[str, str], dict[str, float]] = {}
    notes: dict[tuple[str, str], str] = {}
    for run in parts:
        for (case, class_name), values in run.evaluation.metrics.items():
            key = (run.case(case), class_name)
            if key in metrics:
                raise ValueError(
                    f"{case} occurs twice in the runs {', '.join(part.folder.name for part in parts)}: keep one folder "
                    "of each seed and fold."
                )
            metrics[key], notes[key] = values, run.evaluation.notes[case, class_name]
    return Evaluation(name, parts[0].evaluation.folder, parts[0].evaluation.info, metrics, notes)


def _load(record: Path, folder: Path) -> EvaluatedRun:
    evaluation = load_evaluation(folder, f"{record.parent.name}/{folder.name}")
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        config = json.loads((record.parent / CONFIG).read_text(encoding="utf-8"))
        run = content["run"]
        fold = run.get("fold")
        info = evaluation.info
        settings = {
            "data": Path(run["files"][1]).stem,
            "datalist": None if fold else config["datalist"],
            "folds": fold and fold["of"],
            "section": info.get("section"),
            "inference_mode": info.get("inference_mode"),
            "window_stride": info.get("window_stride"),
            "iterations": config["iterations"],
        }
        others = {key: value for key, value in run.items() if key not in DIFFERENT}
        others["content of the data overlay"] = run.get("content of overlays", [None])[0]
        others["commit"] = content["starts"][-1]["commit"]
        return EvaluatedRun(
            folder=record.parent,
            method=method_name(run["files"][2:]),
            num_labeled=fold["num_labeled"] if fold else info.get("num_labeled"),
            seed=int(run["seed"]),
            fold=fold and fold["number"],
            settings={key: _text(value) for key, value in settings.items() if value is not None},
            others={key: _text(value) for key, value in others.items() if value is not None},
            dataset_dir=str(config["dataset_dir"]),
            datalist=str(config["datalist"]),
            evaluation=evaluation,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{record} and {CONFIG} beside it are not what `experiment` writes ({type(error).__name__}: {error}): move "
            "the folder away, or repeat the run."
        ) from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
