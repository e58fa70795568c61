"""The page of a first result: the masks that the network doubts most and least, and what to label next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simcvd_bundle.commands.report.cases import (
    PLANES,
    Volumes,
    contour_colors,
    draw_planes,
    plane_index,
    read_turned,
)
from simcvd_bundle.commands.report.page import Figure, FigureRow, Section, Table, to_html
from simcvd_bundle.commands.report.plot_sections import curves_section
from simcvd_bundle.data.datalists import common_folder
from simcvd_bundle.data.names import result_file
from simcvd_bundle.utils.atomic import atomically

NEXT = 5
"""Scans that are proposed for labelling."""
CERTAINTY = (
    "Certainty is the Dice that the network's own probabilities expect of its mask, mean over the classes; a class "
    "that is not found counts 0. It orders the scans and is no forecast of the true Dice: a network is too certain."
)


def write_page(
    folder: Path, content: Mapping[str, Any], scans: Sequence[Mapping[str, Any]], scores: Mapping[str, float],
    failed: str, subject: str | None,
) -> None:  # fmt: skip
    """Write ``report.html``.

    Args:
        folder: folder of the run, with ``train/`` and ``masks/``.
        content: the overlay.
        scans: items that were segmented.
        scores: certainty by the (first) file of a scan.
        failed: what failed, if anything did.
        subject: pattern of the subject in a scan's path.
    """
    root = common_folder([dict(scan) for scan in scans])
    ranked = sorted(scores, key=lambda file: scores[file])
    sections = [
        _next_section(ranked, scores, root, subject),
        _case_section(folder, content, ranked, scores, root),
        Section("All masks", [CERTAINTY], [Table("From the least certain", ["scan", "certainty %", "mask"], [
            [_short(file, root), f"{100 * scores[file]:.1f}", str(_mask(file, folder, root).relative_to(folder))]
            for file in ranked
        ])]),
        _curves(folder / "train"),
    ]  # fmt: skip
    if failed:
        sections.insert(0, Section("Scans without a mask", [failed]))
    with atomically(folder / "report.html") as unfinished:
        unfinished.write_text(to_html(f"First result: {folder.name}", sections), encoding="utf-8")


def _curves(run: Path) -> Section:
    """Loss and validation, where the training was long enough for its log to hold any."""
    try:
        return curves_section([str(run)])
    except (ValueError, FileNotFoundError) as error:
        return Section("Training curves", [f"Left out: {error}"])


def label_next(ranked: Sequence[str], root: str, subject: str | None) -> list[str]:
    """The least certain scans, one of each subject.

    Args:
        ranked: files from the least certain on.
        root: folder that all lie in.
        subject: pattern of the subject in a path; without one every scan is a subject.
    """
    chosen: dict[str, str] = {}
    for file in ranked:
        found = re.search(subject, file) if subject else None
        chosen.setdefault(found.group(found.re.groups and 1) if found else file, file)
    return [_short(file, root) for file in list(chosen.values())[:NEXT]]


def _next_section(ranked: Sequence[str], scores: Mapping[str, float], root: str, subject: str | None) -> Section:
    names = label_next(ranked, root, subject)
    if not names:
        return Section("What to label next", ["There is no unlabelled scan with a mask."])
    text = (
        "The network is least certain of these. Correct their masks or draw labels, put them beside the others, and "
        f"run init again: {', '.join(names)}."
    )
    return Section("What to label next", [text])


def _case_section(
    folder: Path, content: Mapping[str, Any], ranked: Sequence[str], scores: Mapping[str, float], root: str
) -> Section:
    """Contours of the least certain, the median and the most certain scan."""
    if not ranked:
        return Section("Worst, median and best mask", ["None: there is no unlabelled scan with a mask."])
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    rows = []
    for file in dict.fromkeys(ranked[place] for place in places.values()):
        rank = ", ".join(name for name, place in places.items() if ranked[place] == file)
        case = _volumes(file, _mask(file, folder, root))
        title = f"{rank}: {_short(file, root)}, certainty {100 * scores[file]:.1f} %"
        text = _colors(case, content)
        figures = [
            Figure(source, f"{plane}, slice {plane_index(case, PLANES[plane])}. {title}. {text}", plane)
            for plane, source in draw_planes(case).items()
        ]
        rows.append(FigureRow(title, figures, text))
    text = "By the network's own certainty, as there is no label to compare with. Each plane is the one with most mask."
    return Section("Worst, median and best mask", [text], figures=rows)


def _volumes(file: str, mask: Path) -> Volumes:
    pred = read_turned(mask)
    return Volumes(
        image=read_turned(file)[0].numpy(), label=np.zeros(pred.shape[1:], int),
        pred=pred[0].numpy().round().astype(int), sdm=None, spacing_mm=tuple(float(size) for size in pred.pixdim),
    )  # fmt: skip


def _colors(case: Volumes, content: Mapping[str, Any]) -> str:
    names = {int(index): name for index, name in content["class_names"].items()}
    values = {int(value): index for value, index in content.get("label_values", {}).items()}
    colors = contour_colors(case.values)
    if not colors:
        return "The mask is empty."
    shown = (f"{names.get(values.get(value, value), value)} {pair[0]}" for value, pair in colors.items())
    return f"Mask: {', '.join(shown)}."


def _mask(file: str, folder: Path, root: str) -> Path:
    return result_file(file, folder / "masks", "seg", root)


def _short(file: str, root: str) -> str:
    return Path(file).relative_to(root).as_posix() if root else file
