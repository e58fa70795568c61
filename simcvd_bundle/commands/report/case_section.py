"""The section of the worst, the median and the best case."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from simcvd_bundle.commands.report.cases import (
    PLANES,
    CaseFiles,
    Volumes,
    case_files,
    describe_colors,
    draw_planes,
    load_case,
    mean_dice,
    plane_index,
)
from simcvd_bundle.commands.report.evaluations import Evaluation
from simcvd_bundle.commands.report.page import Figure, FigureRow, Section
from simcvd_bundle.commands.report.statistics import case_dice

TITLE = "Worst, median and best case"
SDM_TEXT = "Signed distance map (SDM) of the first class: red negative, blue positive, black line at 0, truth dashed."
VIEWS = [*PLANES, *(f"{plane}, SDM" for plane in PLANES)]
DICE_TOLERANCE = 0.005
"""Further apart, the shown prediction is not the evaluated one: half a percent, the last digit that tables print."""


def choose_cases(evaluation: Evaluation) -> dict[str, str]:
    """Case name to its rank (worst, median, best) by mean Dice over its classes; of an even number the lower median."""
    ranked = list(case_dice(evaluation))
    if not ranked:
        return {}
    chosen: dict[str, str] = {}
    for rank, case in (("worst", ranked[0]), ("best", ranked[-1]), ("median", ranked[(len(ranked) - 1) // 2])):
        chosen.setdefault(case, rank)
    return {case: chosen[case] for case in ranked if case in chosen}


def case_section(
    evaluations: Sequence[Evaluation], predictions: Sequence[str] | None, dataset_dir: str | None, datalist: str
) -> Section:
    """Contours of the first evaluation's worst, median and best case, in every run.

    Args:
        evaluations: the runs.
        predictions: a folder of masks for each; by default the evaluation's own.
        dataset_dir: folder of the images and labels; without it nothing is drawn.
        datalist: as for ``load_datalist``.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when ``predictions`` comes without ``dataset_dir`` or is not one folder per evaluation.
    """
    if dataset_dir is None:
        if predictions:
            raise ValueError("predictions need dataset_dir, the folder of the evaluated images and labels.")
        return Section(TITLE, ["Left out: no images given (option dataset_dir)."])
    folders: Sequence[str | None] = predictions or [None] * len(evaluations)
    if len(folders) != len(evaluations):
        raise ValueError(f"predictions must be one folder per evaluation, got {len(folders)} for {len(evaluations)}.")
    return draw_cases(evaluations, [case_files(evaluations[0], dataset_dir, datalist, folder) for folder in folders])


def draw_cases(evaluations: Sequence[Evaluation], files: Sequence[Mapping[str, CaseFiles]]) -> Section:
    """Contours of the first evaluation's worst, median and best case.

    Args:
        evaluations: the runs.
        files: for each run the files of its cases.
    """
    first = evaluations[0]
    paragraphs = [
        f"Cases by the Dice of {first.name}. Each plane is the one with most of the truth. By the image's affine, "
        "the patient's left is on the left of axial and coronal planes. Only the image's first channel is shown."
    ]
    rows = []
    for case, rank in choose_cases(first).items():
        for evaluation, of_case in zip(evaluations, files, strict=True):
            scores = case_dice(evaluation)
            if case not in scores:
                paragraphs.append(f"{evaluation.name} did not measure {case}.")
                continue
            volumes = load_case(of_case[case])
            title = f"{rank} of {first.name}: {case}, {evaluation.name}, Dice {100 * scores[case]:.2f} %"
            shown = mean_dice(volumes)
            if not math.isclose(shown, scores[case], abs_tol=DICE_TOLERANCE):
                paragraphs.append(
                    f"The prediction of {case} in {of_case[case].seg.parent} has Dice {100 * shown:.2f} %, the "
                    f"evaluation of {evaluation.name} {100 * scores[case]:.2f} %: it was made with other weights or "
                    "settings."
                )
            text = describe_colors(volumes, evaluation.classes)
            if volumes.sdm is not None:
                text += f" {SDM_TEXT}"
            rows.append(FigureRow(title, _figures(volumes, f"{title}. {text}"), text))
    return Section(TITLE, paragraphs, figures=rows)


def _figures(volumes: Volumes, description: str) -> list[Figure]:
    captions = {view: f"{view}, slice {plane_index(volumes, PLANES[view.split(',')[0]])}" for view in VIEWS}
    return [
        Figure(source, f"{captions[view]}. {description}", captions[view])
        for view, source in draw_planes(volumes).items()
    ]
