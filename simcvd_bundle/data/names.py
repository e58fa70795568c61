"""What the name of a file says: its format, whether it is a label, which case it belongs to, how its results are named.

A name is cut into words at blanks, ``_``, ``-``, ``.``, before a capital letter that follows a small one or a digit,
and, next to a word of the two lists below, between letters and digits. What the lists do not hold is what an image and
its label share: ``volume-1`` and ``segmentation-1``, ``img0001`` and ``label0001``, ``A001_orig`` and
``A001_labeledMasks``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")

IMAGE_WORDS = frozenset(
    "image images img imgs imaging scan scans volume volumes vol vols raw rawdata orig".split()
)  # fmt: skip
LABEL_WORDS = frozenset(
    "label labels lbl lbls labeled labelled labelmap labelmaps mask masks msk seg segs segm dseg probseg segmentation "
    "segmentations segmented annotation annotations annot contour contours gt ground groundtruth truth".split()
)  # fmt: skip
IMAGE_FOLDERS = frozenset("image images img imgs imaging".split())
"""Words of folders below which a folder of labels further up says nothing (``brain_seg_2020/images``)."""

NUMBER = re.compile(r"(?<![tT])\d$|\d\d$")
"""Endings of names that may count patients; those of T1 and T2, the weightings of MRI, do not."""


def stem(path: Path) -> str:
    """Name of a scan: of a file without the one suffix of its format, in any case of letters, of a folder the whole."""
    suffix = max((s for s in IMAGE_SUFFIXES if path.name.lower().endswith(s)), key=len, default="")
    return path.name if not suffix or path.is_dir() else path.name[: -len(suffix)]


def result_file(image: str | Path, output_dir: str | Path, postfix: str, data_root_dir: str | Path = "") -> Path:
    """Where a result goes: ``output_dir/NAME_POSTFIX.nii.gz``, whatever the image is called.

    Args:
        image: the scan, of several files the first.
        output_dir: folder of the results.
        postfix: which result.
        data_root_dir: a folder that holds the scan (`common_folder`): its sub-folders are repeated in ``output_dir``.

    Raises:
        ValueError: when the scan is not below ``data_root_dir``.
    """
    path = Path(image)
    below = os.path.relpath(path.parent, data_root_dir) if data_root_dir else "."
    if ".." in Path(below).parts:
        raise ValueError(f"{image} does not lie in {data_root_dir}, below which results are to repeat its folders.")
    return Path(output_dir, below, f"{stem(path)}_{postfix}.nii.gz")


def words(name: str) -> list[str]:
    """The words of the name of a file (without suffix) or folder."""
    parts = re.split(r"[\W_]+|(?<=[a-z\d])(?=[A-Z])", name)
    glued = (re.fullmatch(r"([A-Za-z]+)(\d+)", part) for part in parts)
    cut = [list(g.groups()) if g and is_kind(g[1]) else [part] for g, part in zip(glued, parts, strict=True)]
    return [word for part in cut for word in part if word]


def is_kind(word: str) -> bool:
    """Whether a word tells images from labels instead of one case from another."""
    return word.lower() in IMAGE_WORDS | LABEL_WORDS


def case_words(name: str) -> tuple[str, ...]:
    """The words of a name that are left when those for images and labels are out."""
    return tuple(word for word in words(name) if not is_kind(word))


def label_words(name: str) -> set[str]:
    """The words of a name, in small letters, that labels are called by."""
    return {word.lower() for word in words(name)} & LABEL_WORDS


def is_named_label(path: Path, ignored: Container[str] = ()) -> bool:
    """Whether names say that a file or folder is a label: its own, or that of the nearest folder that says anything.

    Args:
        path: relative to the folder that is searched, so that nothing above it counts.
        ignored: words that say nothing here.
    """
    if any(word not in ignored for word in label_words(stem(path))):
        return True
    for folder in reversed(path.parts[:-1]):
        if IMAGE_FOLDERS & {word.lower() for word in words(folder)}:
            return False
        if any(word not in ignored for word in label_words(folder)):
            return True
    return False
