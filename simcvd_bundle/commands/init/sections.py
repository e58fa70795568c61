"""Which scans go into which section of the datalist."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from simcvd_bundle.commands.init.finding import Scan
from simcvd_bundle.commands.init.inspecting import Intensities

WATCHED_FROM = 5
"""Labelled subjects from which one is held out to watch the training: at most a fifth of the labels, as in the five
folds of nnU-Net."""


def without_empty(scans: list[Scan], intensities: list[Intensities], keep: bool) -> tuple[list[Scan], list[str]]:
    """Scans with empty labels taken as unlabelled unless ``keep``, and what to say of them."""
    empty = [i for i, scan in enumerate(scans) if scan.label is not None and set(intensities[i].values) <= {0}]
    names = ", ".join(str(scans[i].label) for i in empty[:5]) + (" ..." if len(empty) > 5 else "")
    if not empty or keep:
        return scans, [f"{len(empty)} empty labels are kept as scans without any class: {names}"] if empty else []
    left = [Scan(scan.image, None) if i in empty else scan for i, scan in enumerate(scans)]
    return left, [
        f"{len(empty)} labels are empty (0 everywhere), and their scans taken as unlabelled: {names}. If they are "
        "right, --keep_empty_labels True"
    ]


def split(
    root: Path,
    scans: Sequence[Scan],
    intensities: Sequence[Intensities],
    subject: str | None,
    num_labeled: int | None,
    test: int,
    validation: int | None,
    seed: int,
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Sections of the datalist; all scans of a subject on one side of every split.

    Without ``validation`` one of at least ``WATCHED_FROM`` labelled subjects watches the training.

    Raises:
        ValueError: when no labelled subject, or for a class no voxel, is left for training, or ``num_labeled`` does not
            fit.
    """
    subjects = [subject_of(root, scan, subject) for scan in scans]
    labeled = sorted({who for who, scan in zip(subjects, scans, strict=True) if scan.label is not None})
    drawn = np.random.default_rng(seed).permutation(labeled).tolist()
    values = {who: _values(subjects, scans, intensities, {who}) for who in labeled}
    watching: list[str] = []
    if validation is None:
        drawn, validation, watching = _watching(drawn, values, test, num_labeled)
    if min(test, validation) < 0 or test + validation >= len(labeled):
        raise ValueError(
            f"--test {test} and --validation {validation} leave none of {len(labeled)} labelled subjects for training."
        )
    section_of = dict.fromkeys(drawn[:test], "test") | dict.fromkeys(drawn[test : test + validation], "validation")
    sections: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    dropped = 0
    order = sorted(range(len(scans)), key=lambda i: (scans[i].label is None, subjects[i], scans[i].image))
    for i in order:
        section = section_of.get(subjects[i], "training")
        if section != "training" and scans[i].label is None:
            dropped += 1  # its subject is held out, so training must not see it either
            continue
        files = [path.relative_to(root).as_posix() for path in scans[i].image]
        item: dict[str, Any] = {"image": files[0] if len(files) == 1 else files}
        if scans[i].label is not None:
            item["label"] = scans[i].label.relative_to(root).as_posix()  # type: ignore[union-attr]
        if subject is not None:
            item["subject"] = subjects[i]
        sections[section].append(item)
    notes = [f"{dropped} unlabelled scans of held-out subjects are left out"] if dropped else []
    if num_labeled is not None:
        known = [subjects[i] for i in order if scans[i].label is not None and subjects[i] not in section_of]
        if not 1 <= num_labeled <= len(known):
            raise ValueError(f"num_labeled is {num_labeled}, but {len(known)} labelled scans are there for training.")
        if num_labeled < len(known) and known[num_labeled - 1] == known[num_labeled]:
            raise ValueError(f"num_labeled {num_labeled} would split the scans of subject {known[num_labeled]!r}.")
        notes.append(f"labels of {num_labeled} scans train ({', '.join(dict.fromkeys(known[:num_labeled]))}), the "
                     f"other {len(known) - num_labeled} are hidden")  # fmt: skip
    trained = [i for i in order if scans[i].label is not None and subjects[i] not in section_of][:num_labeled]
    _check_classes(set().union(*values.values()), {value for i in trained for value in intensities[i].values})
    notes += watching
    if subject is None:
        notes.append("every scan counts as a subject of its own (--subject PATTERN groups them)")
    counts = [f"{len(items)} {section}" for section, items in sections.items() if items]
    with_label = sum("label" in item for item in sections["training"])
    notes.append(f"sections: {', '.join(counts)}; {with_label} of training labelled, of {len(set(subjects))} subjects")
    return sections, notes


def _values(
    subjects: Sequence[str], scans: Sequence[Scan], intensities: Sequence[Intensities], chosen: Set[str]
) -> set[int]:
    """Label values of some subjects."""
    each = zip(subjects, scans, intensities, strict=True)
    return {value for who, scan, part in each if who in chosen and scan.label is not None for value in part.values}


def _watching(
    drawn: list[str], values: Mapping[str, set[int]], test: int, num_labeled: int | None
) -> tuple[list[str], int, list[str]]:
    """The drawn subjects, behind ``test`` of them one that can watch the training; how many there are, what to say."""
    rest = drawn[test:]
    if num_labeled is not None:
        return drawn, 0, []
    if len(rest) < WATCHED_FROM:
        why = f"{len(rest)} labelled subjects all train, as fewer than {WATCHED_FROM} are too few to spare one"
        return drawn, 0, [f"no validation: {why} (--validation 1 does)"]
    for who in rest:
        others = [other for other in rest if other != who]
        if values[who] <= set().union(*(values[other] for other in others)):
            note = f"validation: {who}, drawn of {len(rest)} labelled subjects, watches the training"
            return [*drawn[:test], who, *others], 1, [f"{note} (--validation 0: none)"]
    return drawn, 0, ["no validation: every labelled subject is the only one with some class"]


def _check_classes(known: set[int], trained: set[int]) -> None:
    lost = sorted(known - trained - {0})
    if lost:
        raise ValueError(
            f"Label values {', '.join(map(str, lost))} have no voxel in the labels that train, only in those held out "
            "or hidden, so no network can learn them: hold out fewer (--test, --validation), draw others (--seed), or "
            "raise --num_labeled. Nothing was written."
        )


def subject_of(root: Path, scan: Scan, pattern: str | None) -> str:
    """The part of a scan's path that ``pattern`` finds; without one the path itself."""
    path = scan.image[0].relative_to(root).as_posix()
    found = re.search(pattern, path) if pattern else None
    if pattern and not found:
        raise ValueError(f"--subject {pattern!r} is not found in {path}: it must match the path of every image.")
    return found.group(found.re.groups and 1) if found else path
