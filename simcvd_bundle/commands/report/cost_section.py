"""Section of what the methods cost, and of what their papers report."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import median
from typing import Any

from simcvd_bundle.commands.report.page import Section, Table
from simcvd_bundle.commands.report.published import LEFT_ATRIUM, PUBLISHED
from simcvd_bundle.commands.report.runs import Comparison, EvaluatedRun, Group
from simcvd_bundle.commands.report.score_sections import Record
from simcvd_bundle.commands.report.statistics import number, summarize
from simcvd_bundle.runs.folder import COST

COLUMNS = ("seconds_per_iteration", "peak_memory_mib", "trained_parameters", "network_parameters")


def cost_section(groups: Sequence[Group]) -> tuple[Section, list[Record]]:
    """Time, memory and parameters of each method, medians over its runs."""
    rows, records, without = [], [], []
    for group in groups:
        costs = [cost for run in group.runs if (cost := load_cost(run))]
        if not costs:
            without.append(group.name)
            continue
        measured = {key: [float(cost[key]) for cost in costs if cost[key] is not None] for key in COLUMNS}
        values = {key: median(of_runs) for key, of_runs in measured.items() if of_runs}
        memory = f"{values['peak_memory_mib']:.0f}" if "peak_memory_mib" in values else "-"
        devices = ", ".join(sorted({str(cost["device"]) for cost in costs}))
        rows.append([
            group.name, number(values["seconds_per_iteration"], 3), memory, devices,
            *(f"{values[key] / 1e6:.2f}" for key in COLUMNS[2:]),
        ])  # fmt: skip
        about = {"table": "cost", "run": group.name, "statistic": "median"}
        records += [{**about, "metric": key, "value": value} for key, value in values.items()]
    text = (
        "Medians over the runs of a method. An iteration with its loading, without validation and checkpoints; times "
        "of runs beside other work are no benchmark. Parameters in millions: all that are trained, and those of the "
        "network that is written."
    )
    paragraphs = [text, *([f"Not measured: {', '.join(without)}."] if without else [])]
    header = ["run", "seconds an iteration", "peak memory MiB", "device", "trained parameters", "network parameters"]
    return Section("Cost", paragraphs, [Table("Cost", header, rows)] if rows else []), records


def load_cost(run: EvaluatedRun) -> dict[str, Any]:
    """What a run says of its cost; nothing where it has no readable file."""
    try:
        content = json.loads((run.folder / COST).read_text(encoding="utf-8"))
        return content if all(math.isfinite(content[key] or 0) for key in COLUMNS) and "device" in content else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def published_section(comparison: Comparison) -> Section | None:
    """Figures of the papers beside ours; ``None`` where the data are others."""
    rows = []
    for group in comparison.groups:
        known = PUBLISHED.get(group.method)
        if comparison.settings["data"] == LEFT_ATRIUM and known and group.num_labeled in known.dice:
            mean = summarize(group.mean.values(next(iter(group.mean.groups.values())), "dice")).mean
            ours = number(None if mean is None else 100 * mean)
            rows.append([group.name, ours, f"{known.dice[group.num_labeled]:.2f}", known.chosen])
    if not rows:
        return None
    section = comparison.settings.get("section")
    text = (
        "Mean Dice in %. The papers' figures are of 20 test cases, 6000 to 15000 iterations and often the checkpoint "
        f"that was best on them; ours are of the section {section!r}, {comparison.settings['iterations']} iterations "
        "and the last checkpoint."
    )
    return Section("Published figures", [text], [Table("Published", ["run", "here", "paper", "checkpoint"], rows)])
