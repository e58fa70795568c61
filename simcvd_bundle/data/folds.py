"""Folds of the labelled cases of a datalist."""

from __future__ import annotations

import json
from pathlib import Path

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.subjects import scans_by_subject, subject_of
from simcvd_bundle.utils.atomic import write_json


def write_folds(
    dataset_dir: str, folds: int, output_dir: Path, datalist: str = "dataset.json", num_labeled: int | None = None
) -> list[Path]:
    """Write one datalist for each fold of the labelled training cases.

    Fold k is validated on the labelled cases of every ``folds``-th subject from the k-th on, a scan without ``subject``
    being one of its own. Its training has the labelled and unlabelled cases of the others; held-out subjects are in no
    part of it. Each number of labelled cases has its own files.

    Args:
        dataset_dir: folder of the data.
        folds: number of folds, 2 to the number of labelled cases (subjects, where items name theirs).
        output_dir: folder to write to.
        datalist: file name inside ``dataset_dir`` or an absolute path.
        num_labeled: the first n labelled cases count as labelled; ``None`` takes all.

    Returns:
        The files ``N_labeled/fold_K.json`` below ``output_dir``, paths in them absolute.

    Raises:
        ValueError: when there are fewer labelled cases (subjects) than folds, or a file exists with other cases.
    """
    items = load_datalist(dataset_dir, "training", datalist, num_labeled)
    labeled = [item for item in items if "label" in item]
    unlabeled = [item for item in items if "label" not in item]
    groups = scans_by_subject(labeled)
    if not 2 <= folds <= len(groups):
        what = "cases" if len(groups) == len(labeled) else "subjects"
        raise ValueError(f"folds is {folds}, but {len(groups)} {what} are labelled: choose 2 to that number, or 0.")
    source = json.loads(Path(dataset_dir, datalist).read_text(encoding="utf-8"))
    labels = {"labels": source["labels"]} if "labels" in source else {}
    contents = {}
    for fold in range(folds):
        held = {subject for number, subject in enumerate(groups) if number % folds == fold}
        kept, validation = (
            [item for item in labeled if (subject_of(item) in held) == inside] for inside in (False, True)
        )
        others = [item for item in unlabeled if subject_of(item) not in held]
        file = output_dir / f"{len(labeled)}_labeled" / f"fold_{fold}.json"
        contents[file] = {**labels, "training": kept + others, "validation": validation}
    for file, content in contents.items():
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != content:
            raise ValueError(
                f"{file} is of another number of folds or another datalist: choose another output_dir for these folds."
            )
    for file, content in contents.items():
        write_json(file, content)
    return list(contents)
