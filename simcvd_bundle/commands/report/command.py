"""The command ``python -m simcvd_bundle report``."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from fire.decorators import SetParseFns

from simcvd_bundle.commands.arguments import parse_list
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)

CSV_COLUMNS = ("table", "run", "baseline", "class", "case", "metric", "statistic", "value")


def report(
    evaluations: Sequence[str],
    output_dir: str = "report",
    names: Sequence[str] | None = None,
    baseline: str | None = None,
    runs: Sequence[str] | None = None,
    predictions: Sequence[str] | None = None,
    dataset_dir: str | None = None,
    datalist: str = "dataset.json",
    title: str = "Segmentation report",
) -> None:
    """Compare evaluations: scores, paired tests, plots, training curves, contours of cases, failures.

    Writes report.html (one file, opens offline), report.md (the same tables) and tables.csv (one value a row, overlap
    in [0, 1]). Lists are given as "[a,b]".

    Args:
        evaluations: output folders of evaluations (per_case.csv and summary.json).
        output_dir: folder of the report; a former report in it is replaced.
        names: a name for each evaluation; by default its folder's.
        baseline: name of the evaluation that the others are tested against; by default the first.
        runs: output folders of trainings, for loss curves; any number.
        predictions: a folder for each evaluation with what configs/inference.json wrote (save_sdm adds the SDM).
        dataset_dir: folder of the evaluated images and labels; needed with predictions.
        datalist: file name of the datalist in dataset_dir.
        title: heading of the page.

    Raises:
        FileNotFoundError: when a folder or a file in it is missing.
        ValueError: when a file is not what it should be, or the options do not fit together.
    """
    from simcvd_bundle.commands.report import plot_sections, score_sections  # matplotlib and tensorboard load here
    from simcvd_bundle.commands.report.case_section import case_section
    from simcvd_bundle.commands.report.evaluations import load_evaluations
    from simcvd_bundle.commands.report.page import to_html, to_markdown

    loaded = load_evaluations(evaluations, names)
    by_name = {evaluation.name: evaluation for evaluation in loaded}
    chosen = baseline if baseline is not None else loaded[0].name
    if chosen not in by_name:
        raise ValueError(f"No evaluation is named {chosen!r}: choose baseline from {list(by_name)}.")
    scores, records = score_sections.summary_section(loaded)
    tests, test_records = score_sections.paired_section(loaded, by_name[chosen])
    failed, failed_records = score_sections.failure_section(loaded)
    page = [
        score_sections.settings_section(loaded),
        scores,
        tests,
        plot_sections.distribution_section(loaded),
        failed,
        case_section(loaded, predictions, dataset_dir, datalist),
        plot_sections.labeled_section(loaded),
        plot_sections.curves_section(runs),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*records, *test_records, *failed_records])
    contents = {
        "report.html": to_html(title, page),
        "report.md": to_markdown(title, page),
        "tables.csv": text.getvalue(),
    }
    for name, content in contents.items():
        with atomically(Path(output_dir, name)) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
        logger.info("Wrote %s", Path(output_dir, name))


SetParseFns(
    evaluations=parse_list, names=parse_list, runs=parse_list, predictions=parse_list,
    output_dir=str, baseline=str, dataset_dir=str, datalist=str, title=str,
)(report)  # fmt: skip
