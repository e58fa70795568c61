"""Sections of plots: distributions, Dice against labelled cases, training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from simcvd_bundle.commands.report.curves import load_curves
from simcvd_bundle.commands.report.evaluations import Evaluation, folder_names
from simcvd_bundle.commands.report.page import Figure, FigureRow, Section, Table
from simcvd_bundle.commands.report.plots import Curve, box_plot, curve_plot, error_plot
from simcvd_bundle.commands.report.statistics import METRICS, number, summarize


def distribution_section(evaluations: Sequence[Evaluation]) -> Section:
    """Box plots of Dice and 95HD."""
    rows = []
    for title, class_name in evaluations[0].groups.items():
        figures = []
        for key in ("dice", "hd95_voxel"):
            metric = METRICS[key]
            values = {
                e.name: [metric.scale * value for value in e.values(class_name, key) if not math.isnan(value)]
                for e in evaluations
            }
            medians = ", ".join(f"{name} {number(summarize(group).median)}" for name, group in values.items())
            alt = f"Box plot of {metric.title} of {title}, one box a run. Medians: {medians}."
            figures.append(Figure(box_plot(values, metric.title), alt))
        rows.append(FigureRow(title, figures))
    text = "Box: quartiles and median; whiskers: to 1.5 times the quartile range; every point is a case."
    return Section("Distributions", [text], figures=rows)


def curves_section(runs: Sequence[str] | None) -> Section:
    """Loss terms and validation scores over the training, one plot a tag."""
    if not runs:
        return Section("Training curves", ["Left out: no run folders given (option runs)."])
    logs: dict[str, Mapping[str, Curve]] = {
        name: load_curves(run) for name, run in zip(folder_names(runs, "runs"), runs, strict=True)
    }
    tags = sorted({tag for log in logs.values() for tag in log if not tag.startswith("weight_")})
    losses, others = ([tag for tag in tags if tag.startswith("loss") is is_loss] for is_loss in (True, False))
    rows = []
    for title, label, chosen in (("Loss terms", "iteration", losses), ("Other scalars", "step as logged", others)):
        figures = []
        for tag in chosen:
            curves = {name: log.get(tag, ([], [])) for name, log in logs.items()}
            last = ", ".join(f"{name} {values[-1]:.4g}" for name, (_, values) in curves.items() if len(values))
            figures.append(Figure(curve_plot(curves, tag, label), f"{tag} over the training. Last values: {last}."))
        if figures:
            rows.append(FigureRow(title, figures))
    text = (
        "From the TensorBoard logs; runs are named by their folders. This bundle logs the terms before their weights, "
    )
    text += "and as 'loss' the weighted sum."
    return Section("Training curves", [text], figures=rows)


def labeled_section(evaluations: Sequence[Evaluation]) -> Section:
    """Dice against the number of labelled cases."""
    title = "Dice against number of labelled cases"
    counts = {e.name: e.info.get("num_labeled") for e in evaluations}
    known = {name: count for name, count in counts.items() if isinstance(count, int) and not isinstance(count, bool)}
    if len(set(known.values())) < 2:
        return Section(title, ["Left out: the summaries do not hold different numbers (num_labeled)."])
    tables, figures = [], []
    for group, class_name in evaluations[0].groups.items():
        results = {e.name: summarize(e.values(class_name, "dice")) for e in evaluations if e.name in known}
        points = {
            name: (float(known[name]), 100 * result.mean, 100 * result.std)
            for name, result in results.items() if result.mean is not None and result.std is not None
        }  # fmt: skip
        rows = [[name, str(int(n)), f"{number(mean)} ± {number(std)}"] for name, (n, mean, std) in points.items()]
        tables.append(Table(f"{group}, by labelled cases", ["run", "labelled cases", "Dice %, mean ± std"], rows))
        alt = f"Mean Dice and standard deviation of {group} against the number of labelled cases, as in the table."
        figures.append(FigureRow(group, [Figure(error_plot(points, "labelled cases", "Dice %"), alt)]))
    return Section(title, ["Bars are standard deviations over the cases."], tables, figures)
