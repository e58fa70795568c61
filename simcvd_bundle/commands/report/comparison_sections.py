"""Sections of an experiment: its runs, and for each comparison scores over cases and over seeds, tests, cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from simcvd_bundle.commands.report.case_section import TITLE, draw_cases
from simcvd_bundle.commands.report.cases import CaseFiles, case_files
from simcvd_bundle.commands.report.cost_section import cost_section, published_section
from simcvd_bundle.commands.report.page import FigureRow, Section, Table
from simcvd_bundle.commands.report.plot_sections import curves_section, distribution_section, labeled_section
from simcvd_bundle.commands.report.runs import Comparison, EvaluatedRun, Group, differing
from simcvd_bundle.commands.report.score_sections import (
    Record,
    failure_section,
    paired_section,
    settings_section,
    summary_section,
)
from simcvd_bundle.commands.report.statistics import METRICS, number, summarize


def experiment_sections(
    folder: Path, comparisons: Sequence[Comparison], unfinished: Sequence[str], baseline: str, dataset_dir: str | None
) -> tuple[list[Section], list[Record]]:
    """The whole page of an experiment.

    Args:
        folder: the experiment's.
        comparisons: what was found there.
        unfinished: runs that are left out.
        baseline: method that the others are tested against.
        dataset_dir: folder of the data, if it is no longer where the runs found it.
    """
    page = [runs_section(folder, comparisons, unfinished)]
    records: list[Record] = []
    for comparison in comparisons:
        means = [group.mean for group in comparison.groups]
        scores, of_cases = summary_section(means)
        text = (
            "The value of a case is its mean over the seeds, a failure one of this mean; those of each seed are below."
        )
        text += " The folds are put together, so each case counts once." if "folds" in comparison.settings else ""
        scores = replace(scores, title="Scores over cases", paragraphs=[text, *scores.paragraphs])
        over_seeds, of_seeds = seeds_section(comparison.groups)
        tests, of_tests = tests_section(comparison, baseline)
        failed, of_failures = failure_section([one for group in comparison.groups for one in group.seeds.values()])
        (cost, of_cost), published = cost_section(comparison.groups), published_section(comparison)
        sections = [
            settings_section([replace(mean, folder=folder) for mean in means]),
            scores,
            over_seeds,
            tests,
            distribution_section(means),
            cost,
            *([published] if published else []),
            failed,
            drawn_section(comparison, dataset_dir),
            labeled_section(means),
        ]
        if len(comparisons) > 1:
            about = ", ".join(f"{key} {comparison.settings.get(key, '-')}" for key in _apart(comparisons))
            sections = [replace(section, title=f"{section.title} ({about})") for section in sections]
        page += sections
        records += [*of_cases, *of_seeds, *of_tests, *of_cost, *of_failures]
    groups = [group for comparison in comparisons for group in comparison.groups]
    first = dict.fromkeys(str(min(group.runs, key=lambda run: (run.seed, run.fold or 0)).folder) for group in groups)
    logged = [run for run in first if any(Path(run, "tensorboard").glob("events.out.tfevents.*"))]
    curves = curves_section(logged)
    text = "One run of each method and number of labelled cases: that of the first seed and fold."
    page.append(replace(curves, paragraphs=[*curves.paragraphs, text]) if logged else
                replace(curves, paragraphs=["Left out: the runs have no TensorBoard logs."]))  # fmt: skip
    return page, records


def runs_section(folder: Path, comparisons: Sequence[Comparison], unfinished: Sequence[str]) -> Section:
    """What was found, what is left out, and what may not be compared."""
    paragraphs = [f"Runs of the experiment in {folder}."]
    if unfinished:
        paragraphs.append(f"Left out, as unfinished: {', '.join(unfinished)}.")
    apart = _apart(comparisons)
    if apart:
        paragraphs.append(
            f"The evaluations differ in {', '.join(apart)}. Each combination has its own sections below; nothing is "
            "averaged or tested across them."
        )
    for comparison in comparisons:
        paragraphs += _differences(comparison)
    rows = []
    for comparison in comparisons:
        for group in comparison.groups:
            for run in group.runs:
                fold = "-" if run.fold is None else str(run.fold)
                rows.append([
                    run.folder.name, group.name, str(run.seed), fold, str(len(run.evaluation.cases)),
                    run.evaluation.folder.name,
                ])  # fmt: skip
    header = ["folder", "method and labelled cases", "seed", "fold", "cases", "evaluation"]
    return Section("Runs", paragraphs, [Table("Finished runs", header, rows)])


def seeds_section(groups: Sequence[Group]) -> tuple[Section, list[Record]]:
    """Mean over the cases for every seed, and mean and standard deviation of these."""
    text = (
        "First the mean over all cases for each seed, then mean ± sample standard deviation (n - 1) of these means "
        "over the seeds, a dash where there is one seed. This is the spread between trainings; that between cases is "
        "above."
    )
    tables: list[Table] = []
    records: list[Record] = []
    titles = [metric.title for metric in METRICS.values()]
    for title, class_name in groups[0].mean.groups.items():
        overall, each = [], []
        for group in groups:
            means = {
                seed: {key: summarize(evaluation.values(class_name, key)).mean for key in METRICS}
                for seed, evaluation in group.seeds.items()
            }
            row = [group.name, str(len(means))]
            for key, metric in METRICS.items():
                values = [mean for of_seed in means.values() if (mean := of_seed[key]) is not None]
                mean = float(np.mean(values)) if values else None
                std = float(np.std(values, ddof=1)) if len(values) > 1 else None
                scaled = [value if value is None else metric.scale * value for value in (mean, std)]
                row.append(f"{number(scaled[0])} ± {number(scaled[1])}")
                about = {"table": "seeds", "run": group.name, "class": title, "metric": key}
                records += [
                    {**about, "statistic": "mean", "value": mean},
                    {**about, "statistic": "std", "value": std},
                    {**about, "statistic": "n", "value": len(values)},
                ]
                records += [{**about, "statistic": f"seed {seed}", "value": means[seed][key]} for seed in means]
            overall.append(row)
            for seed, of_seed in means.items():
                values_text = [
                    number(None if (mean := of_seed[key]) is None else metric.scale * mean)
                    for key, metric in METRICS.items()
                ]
                each.append([group.name, str(seed), str(len(group.seeds[seed].cases)), *values_text])
        tables.append(Table(f"{title}, over seeds", ["run", "seeds", *titles], overall))
        tables.append(Table(f"{title}, mean of each seed", ["run", "seed", "cases", *titles], each))
    return Section("Scores over seeds", [text], tables), records


def tests_section(comparison: Comparison, baseline: str) -> tuple[Section, list[Record]]:
    """Every method against the baseline with the same number of labelled cases, on values averaged over seeds."""
    paragraphs = ["The value of a case is its mean over the seeds, so a case is one pair however many seeds there are."]
    tables: list[Table] = []
    records: list[Record] = []
    for groups in comparison.by_number:
        first = next((group for group in groups if group.method == baseline), None)
        names = ", ".join(group.name for group in groups)
        if first is None:
            paragraphs.append(f"Not tested, as there is no {baseline} to test against: {names}.")
            continue
        if len(groups) == 1:
            paragraphs.append(f"Not tested, as there is no other method: {names}.")
            continue
        section, of_number = paired_section([group.mean for group in groups], first.mean)
        paragraphs += section.paragraphs
        tables += section.tables
        records += of_number
        for group in groups:
            if set(group.seeds) != set(first.seeds):
                seeds = [", ".join(map(str, one.seeds)) for one in (group, first)]
                paragraphs.append(
                    f"The seeds differ: {group.name} has {seeds[0]}; {first.name} has {seeds[1]}. A mean over more "
                    "seeds varies less."
                )
    return Section("Paired tests", list(dict.fromkeys(paragraphs)), tables), records


def drawn_section(comparison: Comparison, dataset_dir: str | None) -> Section:
    """Worst, median and best case of the first method of each number of labelled cases, in the first seed of each."""
    paragraphs: list[str] = ["Masks and scores are those of the first seed of each method."]
    figures: list[FigureRow] = []
    for groups in comparison.by_number:
        firsts = [min(group.seeds) for group in groups]
        try:
            files = [_files(group, seed, dataset_dir) for group, seed in zip(groups, firsts, strict=True)]
            section = draw_cases([group.seeds[seed] for group, seed in zip(groups, firsts, strict=True)], files)
        except (ValueError, OSError) as error:  # data or masks that are not here any more
            paragraphs.append(f"Left out: {', '.join(group.name for group in groups)}. {error}")
            continue
        paragraphs += section.paragraphs
        figures += section.figures
    return Section(TITLE, paragraphs, figures=figures)


def _files(group: Group, seed: int, dataset_dir: str | None) -> dict[str, CaseFiles]:
    parts = [run for run in group.runs if run.seed == seed]
    return {run.case(case): files for run in parts for case, files in _files_of_run(run, dataset_dir).items()}


def _files_of_run(run: EvaluatedRun, dataset_dir: str | None) -> dict[str, CaseFiles]:
    return case_files(run.evaluation, dataset_dir or run.dataset_dir, run.datalist)


def _apart(comparisons: Sequence[Comparison]) -> list[str]:
    return differing([comparison.settings for comparison in comparisons])


def _differences(comparison: Comparison) -> list[str]:
    """Sentences on further settings that differ, and on seeds that lack folds."""
    paragraphs = []
    for key in differing([run.others for run in comparison.runs]):
        by_value: dict[str, list[str]] = {}
        for run in comparison.runs:
            by_value.setdefault(run.others.get(key, "not set"), []).append(run.folder.name)
        values = "; ".join(f"{value}: {', '.join(names)}" for value, names in by_value.items())
        paragraphs.append(f"The runs differ in {key} ({values}): compare them with care.")
    for group in comparison.groups:
        cases = {seed: len(evaluation.cases) for seed, evaluation in group.seeds.items()}
        folds = {seed: {run.fold for run in group.runs if run.seed == seed} for seed in cases}
        number_of_folds = int(comparison.settings.get("folds", 1))
        short = [seed for seed in cases if len(folds[seed]) < number_of_folds]
        for seed in short:
            paragraphs.append(
                f"{group.name}: seed {seed} has {len(folds[seed])} of {number_of_folds} folds, so its mean is over "
                f"{cases[seed]} cases only."
            )
    return paragraphs
