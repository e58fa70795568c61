"""Sections of numbers: settings, scores, paired tests, failures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from simcvd_bundle.commands.report.evaluations import Evaluation
from simcvd_bundle.commands.report.page import Section, Table
from simcvd_bundle.commands.report.statistics import (
    FAILURE_DICE,
    METRICS,
    MIN_PAIRS,
    failures,
    number,
    paired_test,
    paired_values,
    summarize,
)

SECTION_NOTES = {
    "unlabeled": "section 'unlabeled' is transductive: training saw these images, though not their labels. "
    "It is not a test score.",
    "labeled": "section 'labeled' trained with these labels: it says how well they fit. It is not a test score.",
    "training": "section 'training' took part in training: it is not a test score.",
    "validation": "section 'validation' may have chosen the weights or the settings: it is not a test score.",
    "test": "section 'test' is a test score if it chose neither weights nor settings.",
}

Record = dict[str, Any]


def settings_section(evaluations: Sequence[Evaluation]) -> Section:
    """What was evaluated and how, and what that means for the scores."""
    keys = list(dict.fromkeys(key for evaluation in evaluations for key in evaluation.info))
    by_note: dict[str, list[str]] = {}
    for evaluation in evaluations:
        section = evaluation.info.get("section")
        unknown = "the evaluation does not say which section of the data it measured." if section is None else (
            f"section {section!r}: whether training saw these cases is for you to know."
        )  # fmt: skip
        by_note.setdefault(SECTION_NOTES.get(str(section), unknown), []).append(evaluation.name)
    paragraphs = [f"{', '.join(names)}: {note}" for note, names in by_note.items()]
    for key in ("section", "inference_mode", "window_stride"):
        values = [_text(evaluation.info.get(key)) for evaluation in evaluations]
        if len(set(values)) > 1:
            paragraphs.append(f"The runs differ in {key} ({', '.join(values)}): compare them with care.")
    rows = [[e.name, str(len(e.cases)), *(_text(e.info.get(key)) for key in keys), str(e.folder)] for e in evaluations]
    return Section("Settings", paragraphs, [Table("Evaluations", ["run", "cases", *keys, "folder"], rows)])


def summary_section(evaluations: Sequence[Evaluation]) -> tuple[Section, list[Record]]:
    """Mean ± std and median of every class and run."""
    tables, records = [], []
    header = ["run", *(text for metric in METRICS.values() for text in (metric.title, "median"))]
    header = [*header[:3], "failures", *header[3:], "measured", "excluded"]
    for title, class_name in evaluations[0].groups.items():
        rows = []
        for evaluation in evaluations:
            row = [evaluation.name]
            for key, metric in METRICS.items():
                result = summarize(evaluation.values(class_name, key))
                mean, std, median = (
                    value if value is None else metric.scale * value
                    for value in (result.mean, result.std, result.median)
                )
                row += ["-" if mean is None else f"{number(mean)} ± {number(std)}", number(median)]
                about = {"table": "summary", "run": evaluation.name, "class": title, "metric": key}
                records += [{**about, "statistic": name, "value": value} for name, value in vars(result).items()]
            dice = summarize(evaluation.values(class_name, "dice"))
            failed = len(failures(evaluation, class_name))
            row = [*row[:3], str(failed), *row[3:], str(dice.n), str(dice.excluded)]
            about = {"table": "summary", "run": evaluation.name, "class": title, "metric": "dice"}
            records.append({**about, "statistic": "failures", "value": failed})
            rows.append(row)
        tables.append(Table(title, header, rows))
    text = (
        "Mean ± population standard deviation over the cases. Excluded: prediction and truth are both empty. Failures: "
        f"Dice below {100 * FAILURE_DICE:.0f} %, which includes every empty prediction of a class that is there; they "
        "count, with the volume's diagonal as distance where one mask is empty. ASD is from prediction to truth."
    )
    if len(evaluations[0].classes) > 1:
        text += " 'All classes together' weighs each case and class the same."
    return Section("Scores", [text], tables), records


def paired_section(evaluations: Sequence[Evaluation], baseline: Evaluation) -> tuple[Section, list[Record]]:
    """Every other run against the baseline."""
    if len(evaluations) == 1:
        return Section("Paired tests", ["Not made: there is one evaluation only."]), []
    paragraphs = [
        f"Baseline: {baseline.name}.",
        "Two-sided paired t-test and Wilcoxon signed-rank test on the cases that both runs "
        f"measured, from {MIN_PAIRS} cases on. p values are not corrected for the number of tests. They tell whether "
        "the cases agree on a difference, and nothing about the spread between trainings with other seeds.",
    ]
    if len(baseline.classes) > 1:
        paragraphs.append("'All classes together' takes the mean over the classes of a case, so a case is one pair.")
    others = [evaluation for evaluation in evaluations if evaluation is not baseline]
    for other in others:
        only = [len(set(a.cases) - set(b.cases)) for a, b in ((other, baseline), (baseline, other))]
        if any(only):
            paragraphs.append(
                f"The cases differ: {only[0]} only in {other.name}, {only[1]} only in {baseline.name}, "
                f"{len(set(other.cases) & set(baseline.cases))} in both. Only the last are compared."
            )
    tables, records = [], []
    for title, class_name in baseline.groups.items():
        rows = []
        for other in others:
            for key, metric in METRICS.items():
                result = paired_test(*paired_values(other, baseline, class_name, key), metric.higher_is_better)
                mean = None if result.mean_difference is None else metric.scale * result.mean_difference
                rows.append([
                    other.name, metric.title, str(result.n), f"{result.better} / {result.worse}",
                    "-" if mean is None else f"{mean:+.2f}", _p(result.p_ttest), _p(result.p_wilcoxon), result.note,
                ])  # fmt: skip
                about = {"table": "paired", "run": other.name, "baseline": baseline.name, "class": title, "metric": key}
                statistics = {name: value for name, value in vars(result).items() if name != "note"}
                records += [{**about, "statistic": name, "value": value} for name, value in statistics.items()]
        header = ["run", "metric", "pairs", "better / worse", "mean difference", "p t-test", "p Wilcoxon", "note"]
        tables.append(Table(f"{title}, against {baseline.name}", header, rows))
    return Section("Paired tests", paragraphs, tables), records


def failure_section(evaluations: Sequence[Evaluation]) -> tuple[Section, list[Record]]:
    """Cases with next to no overlap."""
    rows, records = [], []
    for e in evaluations:
        for key in failures(e):
            dice, hd95 = e.metrics[key]["dice"], e.metrics[key]["hd95_voxel"]
            rows.append([e.name, *key, number(100 * dice), number(hd95), e.notes[key] or "no or little overlap"])
            about = {"table": "failures", "run": e.name, "case": key[0], "class": key[1], "metric": "dice"}
            records.append({**about, "statistic": "value", "value": dice})
    counts = ", ".join(f"{e.name} {len(failures(e))}" for e in evaluations)
    text = f"Dice below {100 * FAILURE_DICE:.0f} %, empty predictions among them. Number per run: {counts}."
    header = ["run", "case", "class", "Dice %", "95HD voxel", "note"]
    return Section("Failures", [text], [Table("Failed cases", header, rows)] if rows else []), records


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def _p(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else number(value, 3)
