"""The command ``python -m simcvd_bundle review``: the masks that should be looked at first."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fire.decorators import SetParseFns

from simcvd_bundle.commands.report.cases import PLANES, Volumes, draw_plane, read_turned
from simcvd_bundle.commands.report.page import Figure, FigureRow, Section, Table, to_html
from simcvd_bundle.inference.case_table import DONE, FAILED, SEPARATOR, Row, read_table
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)

SUFFIX = "_seg.nii.gz"


def review(predictions: str, worst: int = 20) -> None:
    """List the masks of a run of inference with the lowest quality score, each with a picture, and the failed scans.

    Writes review.html (one file, opens offline) beside the masks. The scans must still lie where cases.csv says.

    Args:
        predictions: folder of masks that configs/inference.json wrote, with cases.csv in it.
        worst: how many masks.

    Raises:
        FileNotFoundError: when there is no cases.csv.
        ValueError: when it is no such table, or worst is no whole number of at least 1.
    """
    if type(worst) is not int or worst < 1:
        raise ValueError(f"worst is {worst!r}, but must be a whole number of at least 1: set --worst 20.")
    folder = Path(predictions)
    if not (folder / "cases.csv").is_file():
        raise FileNotFoundError(f"{folder / 'cases.csv'} is missing: segment scans with configs/inference.json first.")
    rows = list(read_table(folder / "cases.csv").values())
    done = sorted((row for row in rows if row["status"] == DONE), key=quality)
    failed = [row for row in rows if row["status"] == FAILED]
    page = [_worst(folder, done[:worst], len(done)), _failed(failed)]
    file = folder / "review.html"
    with atomically(file) as unfinished:
        unfinished.write_text(to_html("Masks to look at", page), encoding="utf-8")
    logger.info("Wrote %s: %d of %d masks, %d failed scans", file, len(done[:worst]), len(done), len(failed))


SetParseFns(predictions=str)(review)


def quality(row: Row) -> float:
    """Score of a row; one without a score comes first."""
    try:
        score = float(row["quality"])
    except ValueError:
        return -math.inf
    return score if math.isfinite(score) else -math.inf


def _worst(folder: Path, rows: Sequence[Row], total: int) -> Section:
    columns = (
        [name for name in rows[0] if name in ("quality", "predicted_dice") or name.endswith("_ml")] if rows else []
    )
    table = Table(
        "Lowest quality first", ["scan", *columns], [[row["path"], *(row[c] for c in columns)] for row in rows]
    )
    figures, missing = [], []
    for row in rows:
        try:
            figures.append(_picture(folder, row))
        except (OSError, ValueError, StopIteration) as error:
            missing.append(f"{row['path']} is not shown: {error or 'it has no mask'}")
    paragraphs = [
        f"{len(rows)} of {total} masks. The score orders masks by how likely it is that they are wrong; a mask with a "
        "high score can be wrong too (docs/scaling.md). The axial slice with most of the mask is shown."
    ]
    gallery = FigureRow("Pictures", figures)
    return Section("Lowest quality", [*paragraphs, *missing], [table] if rows else [], [gallery] if figures else [])


def _picture(folder: Path, row: Row) -> Figure:
    mask = next(name for name in row["files"].split(SEPARATOR) if name.endswith(SUFFIX))
    pred = read_turned(folder / mask)
    label = pred[0].numpy().astype(int)
    volumes = Volumes(
        image=read_turned(row["path"])[0].numpy(), label=np.zeros_like(label), pred=label, sdm=None,
        spacing_mm=tuple(float(size) for size in pred.pixdim),
    )  # fmt: skip
    caption = f"{mask.removesuffix(SUFFIX)}, quality {row['quality'] or 'unknown'}"
    return Figure(
        draw_plane(volumes, PLANES["axial"], volumes.image, None), f"{caption}: axial slice, contour", caption
    )


def _failed(rows: Sequence[Row]) -> Section:
    if not rows:
        return Section("Failed scans", ["None."])
    table = Table("Scans without a mask", ["scan", "reason"], [[row["path"], row["error"]] for row in rows])
    return Section("Failed scans", tables=[table])
