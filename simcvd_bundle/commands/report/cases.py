"""Contours of prediction and truth over the image, on three planes of a case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from monai.transforms.spatial.array import Orientation

from simcvd_bundle.commands.report.evaluations import Evaluation
from simcvd_bundle.commands.report.plots import data_uri, style
from simcvd_bundle.data.datalists import common_folder, load_datalist
from simcvd_bundle.data.names import result_file
from simcvd_bundle.data.reading import read_scan
from simcvd_bundle.evaluation.handler import distinct_case_names

CONTOURS = {
    "orange": "#E69F00", "sky blue": "#56B4E9", "green": "#009E73", "yellow": "#F0E442", "red": "#D55E00",
    "pink": "#CC79A7",
}  # fmt: skip
"""Okabe and Ito's colours that stand out from grey; a label value takes the next one, from the first after the last."""
SINGLE = ("orange", "sky blue")
"""Colours of prediction and truth where there is one label value only."""
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Plane to the axis that it is perpendicular to, in a volume whose axes point to right, anterior and superior."""
PANEL_INCH = 3.0


class CaseFiles(NamedTuple):
    """Files of a case: the first of its images, its label, its mask and, if it was saved, its signed distance map."""

    image: str
    label: str
    seg: Path
    sdm: Path


@dataclass(frozen=True)
class Volumes:
    """A case, all arrays with axes towards right, anterior, superior and voxels of ``spacing_mm``.

    Attributes:
        image: first channel, HWD.
        label: class indices, HWD.
        pred: class indices, HWD.
        sdm: signed distance map of the first class, HWD in [-1, 1], if it was saved.
        spacing_mm: voxel size.
    """

    image: np.ndarray
    label: np.ndarray
    pred: np.ndarray
    sdm: np.ndarray | None
    spacing_mm: tuple[float, ...]

    @cached_property
    def values(self) -> list[int]:
        """Foreground label values of truth and prediction, ascending."""
        return sorted(int(value) for value in np.union1d(self.label, self.pred) if value != 0)


def case_files(
    evaluation: Evaluation, dataset_dir: str, datalist: str, predictions: str | None = None
) -> dict[str, CaseFiles]:
    """Files of every evaluated case, by the name that ``per_case.csv`` gives it.

    Args:
        evaluation: names section and cases.
        dataset_dir: folder of the images and labels.
        datalist: as for ``load_datalist``.
        predictions: folder of masks that inference wrote; by default those that the evaluation kept.

    Raises:
        FileNotFoundError: when the datalist or a file named in it is missing.
        ValueError: when the evaluation does not say its section, or the datalist does not hold its cases.
    """
    section = evaluation.info.get("section")
    if not isinstance(section, str):
        raise ValueError(
            f"'info' of {evaluation.folder / 'summary.json'} names no section, so its cases cannot be found: leave out "
            "dataset_dir."
        )
    items = load_datalist(
        dataset_dir, section, datalist, num_labeled=evaluation.info.get("num_labeled"), require_labels=True
    )
    names = distinct_case_names(str(item["label"]) for item in items)
    folder, root = (evaluation.folder, common_folder(items)) if predictions is None else (predictions, "")
    files = {}
    for item in items:
        image = item["image"][0] if isinstance(item["image"], list) else item["image"]
        results = (result_file(image, folder, postfix, root) for postfix in ("seg", "sdm"))
        files[names[str(item["label"])]] = CaseFiles(image, str(item["label"]), *results)
    absent = [case for case in evaluation.cases if case not in files]
    if absent:
        raise ValueError(
            f"Section {section!r} of {Path(dataset_dir, datalist)} has no case {absent[0]!r} of {evaluation.folder}: "
            "set dataset_dir and datalist to what was evaluated."
        )
    return files


def load_case(files: CaseFiles) -> Volumes:
    """Read a case and its prediction.

    Raises:
        FileNotFoundError: when there is no prediction of the case.
        ValueError: when the prediction has another shape than the label.
    """
    if not files.seg.is_file():
        raise FileNotFoundError(
            f"{files.seg} is missing: repeat the evaluation with --save_predictions True, or segment {files.image} "
            f"with configs/inference.json and output_dir {files.seg.parent}."
        )
    label = read_turned(files.label)
    pred = read_turned(files.seg)
    if pred.shape[1:] != label.shape[1:]:
        raise ValueError(f"{files.seg} has shape {tuple(pred.shape[1:])}, its label {tuple(label.shape[1:])}.")
    return Volumes(
        image=read_turned(files.image)[0].numpy(),
        label=label[0].numpy().round().astype(int),
        pred=pred[0].numpy().round().astype(int),
        sdm=read_turned(files.sdm)[0].numpy() if files.sdm.is_file() else None,
        spacing_mm=tuple(float(size) for size in label.pixdim),
    )


def mean_dice(case: Volumes) -> float:
    """Mean Dice over the label values in either mask; NaN when both are empty."""
    scores = []
    for value in case.values:
        p, y = case.pred == value, case.label == value
        scores.append(2 * int((p & y).sum()) / int(p.sum() + y.sum()))
    return float(np.mean(scores)) if scores else math.nan


def contour_colors(values: list[int]) -> dict[int, tuple[str, str]]:
    """Names of the colours of prediction and truth for every label value."""
    if len(values) == 1:
        return {values[0]: SINGLE}
    names = list(CONTOURS)
    return {value: (names[i % len(names)],) * 2 for i, value in enumerate(values)}


def plane_index(case: Volumes, axis: int) -> int:
    """The slice across ``axis`` with most of the truth; without truth of the prediction, without both the middle."""
    others = tuple(a for a in range(3) if a != axis)
    for mask in (case.label > 0, case.pred > 0):
        if mask.any():
            return int(mask.sum(axis=others).argmax())
    return int(case.label.shape[axis] // 2)


def draw_planes(case: Volumes) -> dict[str, str]:
    """PNG images by plane; with a signed distance map also ``PLANE, SDM``."""
    images = {plane: draw_plane(case, axis, case.image, None) for plane, axis in PLANES.items()}
    if case.sdm is not None:
        images |= {f"{plane}, SDM": draw_plane(case, axis, case.sdm, "RdBu") for plane, axis in PLANES.items()}
    return images


def read_turned(path: str | Path) -> Any:
    """An image with its channels first and its axes turned to right, anterior, superior."""
    return Orientation("RAS", labels=None)(read_scan(path))


def draw_plane(case: Volumes, axis: int, background: np.ndarray, cmap: str | None) -> str:
    """PNG image of the slice of `plane_index`: ``background``, grey without ``cmap``, and the contours on it."""
    index = plane_index(case, axis)
    across, up = (a for a in range(3) if a != axis)
    width, height = (case.label.shape[a] * case.spacing_mm[a] for a in (across, up))
    plane = background.take(index, axis).T
    low, high = (-1.0, 1.0) if cmap else (float(value) for value in np.percentile(background[::2, ::2, ::2], [1, 99]))
    with style():
        figure = Figure(figsize=(PANEL_INCH, PANEL_INCH * min(max(height / width, 0.3), 2)))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        aspect = case.spacing_mm[up] / case.spacing_mm[across]
        axes.imshow(plane, cmap=cmap or "gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
        if cmap:
            _contour(axes, plane < 0, "black", "solid")
        for value, (pred_color, label_color) in contour_colors(case.values).items():
            if not cmap:
                _contour(axes, case.pred.take(index, axis).T == value, CONTOURS[pred_color], "solid")
            color = "black" if cmap else CONTOURS[label_color]
            _contour(axes, case.label.take(index, axis).T == value, color, "dashed")
        return data_uri(figure, "png")


def _contour(axes: Any, mask: np.ndarray, color: str, line: str) -> None:
    if mask.any():
        axes.contour(mask, levels=[0.5], colors=[color], linestyles=[line], linewidths=[1.4])


def describe_colors(case: Volumes, class_names: list[str]) -> str:
    """What the lines of `draw_planes` mean, in a sentence."""
    colors = contour_colors(case.values)
    if len(colors) == 1 and len(class_names) == 1:
        return f"{class_names[0]}: prediction solid {SINGLE[0]}, truth dashed {SINGLE[1]}."
    if len(colors) == 1:
        return f"Label value {next(iter(colors))}: prediction solid {SINGLE[0]}, truth dashed {SINGLE[1]}."
    values = ", ".join(f"{value} {pair[0]}" for value, pair in colors.items())
    return f"Prediction solid, truth dashed; colours by label value: {values or 'none, both are empty'}."
