"""The command ``python -m simcvd_bundle report``."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from fire.decorators import SetParseFns

from simcvd_bundle.commands.arguments import parse_list
from simcvd_bundle.commands.report.case_section import case_section
from simcvd_bundle.commands.report.comparison_sections import experiment_sections
from simcvd_bundle.commands.report.evaluations import Evaluation, load_evaluations
from simcvd_bundle.commands.report.page import Section, to_html, to_markdown
from simcvd_bundle.commands.report.plot_sections import curves_section, distribution_section, labeled_section
from simcvd_bundle.commands.report.runs import compare, default_baseline, find_runs
from simcvd_bundle.commands.report.score_sections import (
    Record,
    failure_section,
    paired_section,
    settings_section,
    summary_section,
)
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)

CSV_COLUMNS = ("table", "run", "baseline", "class", "case", "metric", "statistic", "value")


def report(
    experiment_dir: str | None = None,
    evaluations: Sequence[str] | None = None,
    output_dir: str | None = None,
    baseline: str | None = None,
    names: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    predictions: Sequence[str] | None = None,
    dataset_dir: str | None = None,
    datalist: str | None = None,
    title: str = "Segmentation report",
) -> None:
    """Compare runs: scores over cases and seeds, paired tests, plots, training curves, contours of cases, failures.

    `report DIR` takes what `experiment` wrote to DIR: finished runs by method and number of labelled cases, unfinished
    ones named and left out. Other evaluations are given as `report --evaluations "[a,b]"`. Lists are given as "[a,b]".
    Writes report.html (one file, opens offline), report.md (the same tables) and tables.csv (one value a row, overlap
    in [0, 1]).

    Args:
        experiment_dir: folder of an experiment.
        evaluations: instead, output folders of evaluations (per_case.csv and summary.json).
        output_dir: folder of the report, by default EXPERIMENT_DIR/report or report; a former one in it is replaced.
        baseline: what the others are tested against: of an experiment a method (by default supervised, else the first
            by name), of evaluations a name (by default the first).
        names: a name for each of evaluations; by default its folder's.
        runs: besides evaluations, output folders of trainings, for loss curves; any number.
        predictions: a folder of masks for each of evaluations, such as what configs/inference.json wrote (save_sdm adds
            the SDM); by default the evaluation's own (save_predictions).
        dataset_dir: folder of the images and labels, for drawing cases; an experiment knows it.
        datalist: file name of the datalist in dataset_dir, by default dataset.json; an experiment knows it.
        title: heading of the page.

    Raises:
        FileNotFoundError: when a folder or a file in it is missing.
        ValueError: when a file is not what it should be, no run is finished, or the options do not fit together.
    """
    if (experiment_dir is None) == (not evaluations):
        raise ValueError('give the folder of an experiment, as in `report runs`, or else --evaluations "[a,b]".')
    if experiment_dir is not None:
        lists = {"names": names, "runs": runs, "predictions": predictions, "datalist": datalist}
        given = [name for name, value in lists.items() if value is not None]
        if given:
            raise ValueError(f"{', '.join(given)} can be given with evaluations only: an experiment knows its own.")
        page, records = _of_experiment(Path(experiment_dir), baseline, dataset_dir)
        folder = Path(output_dir or Path(experiment_dir, "report"))
    else:
        loaded = load_evaluations(evaluations or (), names)
        page, records = _of_evaluations(loaded, baseline, runs, predictions, dataset_dir, datalist or "dataset.json")
        folder = Path(output_dir or "report")
    _write(folder, title, page, records)


SetParseFns(
    experiment_dir=str, evaluations=parse_list, names=parse_list, runs=parse_list, predictions=parse_list,
    output_dir=str, baseline=str, dataset_dir=str, datalist=str, title=str,
)(report)  # fmt: skip


def _of_experiment(folder: Path, baseline: str | None, dataset_dir: str | None) -> tuple[list[Section], list[Record]]:
    found, unfinished = find_runs(folder)
    chosen = baseline or default_baseline(found)
    return experiment_sections(folder, compare(found, chosen), unfinished, chosen, dataset_dir)


def _of_evaluations(
    loaded: Sequence[Evaluation], baseline: str | None, runs: Sequence[str] | None, predictions: Sequence[str] | None,
    dataset_dir: str | None, datalist: str,
) -> tuple[list[Section], list[Record]]:  # fmt: skip
    by_name = {evaluation.name: evaluation for evaluation in loaded}
    chosen = baseline if baseline is not None else loaded[0].name
    if chosen not in by_name:
        raise ValueError(f"No evaluation is named {chosen!r}: choose baseline from {list(by_name)}.")
    scores, of_scores = summary_section(loaded)
    tests, of_tests = paired_section(loaded, by_name[chosen])
    failed, of_failures = failure_section(loaded)
    page = [
        settings_section(loaded),
        scores,
        tests,
        distribution_section(loaded),
        failed,
        case_section(loaded, predictions, dataset_dir, datalist),
        labeled_section(loaded),
        curves_section(runs),
    ]
    return page, [*of_scores, *of_tests, *of_failures]


def _write(folder: Path, title: str, page: Sequence[Section], records: Sequence[Record]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    contents = {
        "report.html": to_html(title, page),
        "report.md": to_markdown(title, page),
        "tables.csv": text.getvalue(),
    }
    for name, content in contents.items():
        with atomically(folder / name) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
        logger.info("Wrote %s", folder / name)
