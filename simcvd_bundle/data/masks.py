"""Masks that lie beside scans: results of the bundle, and files whose names say that they are the labels of a scan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib

from simcvd_bundle.data.names import case_words, label_words, stem

RESULTS = ("seg", "probability", "sdm")
"""Postfixes of the results of inference."""
PREDICTED = "predicted by simcvd_bundle"
"""Mark of a result: ``descrip`` in its header. By it a predicted mask is never taken for a drawn one."""


def is_prediction(path: Path) -> bool:
    """Whether a file is a result of the bundle, by name and header."""
    if not path.name.endswith(tuple(f"_{postfix}.nii.gz" for postfix in RESULTS)):
        return False
    try:
        image: Any = nib.load(path)
        return bool(image.header["descrip"].item().decode(errors="replace") == PREDICTED)
    except Exception:  # a damaged file: whoever reads it says so
        return False


def result_of(path: Path) -> str | None:
    """Name of the scan that a file of this name would be a result of."""
    scan, _, postfix = stem(path).rpartition("_")
    return scan if postfix in RESULTS else None


def split_masks(files: Sequence[Path], folders: Iterable[Path] = ()) -> tuple[list[Path], list[Path], list[Path]]:
    """Part the image files of one folder into scans and masks.

    A mask is a result of the bundle, ``NAME_seg``, ``NAME_probability`` or ``NAME_sdm`` beside the scan ``NAME`` or
    marked in its header. Or it has a word for labels in its name, and the rest, if any, begins with the name of a scan
    of this folder without such a word, or is that name without the channel (``segmentation-1`` beside ``volume-1``,
    ``case_seg`` beside ``case_t1`` and ``case_flair``). Without a scan of its name a file is a scan, whatever its name.

    Args:
        files: the image files.
        folders: scans beside them that are folders.

    Returns:
        The scans, the masks, and those of the scans that are called like a mask.
    """
    all_scans = [*files, *folders]
    names = {stem(path) for path in all_scans}
    plain = [stem(path) for path in all_scans if not label_words(stem(path))]
    whole = {case_words(name) for name in plain}
    without_channel = {case_words(name.rpartition("_")[0]) for name in plain if "_" in name}
    scans: list[Path] = []
    masks: list[Path] = []
    odd: list[Path] = []
    for path in files:
        case = case_words(stem(path))
        called = bool(label_words(stem(path)))
        beside = case in without_channel or any(case[: len(name)] == name for name in whole)
        alone = not case and bool(plain)  # GT beside Patient_01
        if result_of(path) in names or (called and (beside or alone)) or is_prediction(path):
            masks.append(path)
        else:
            scans.append(path)
            odd += [path] if called else []
    return scans, masks, odd
