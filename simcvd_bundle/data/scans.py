"""Scans in folders: which files there are, and which of them make a scan."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk

logger = logging.getLogger(__name__)

Item = dict[str, Any]
"""A case: ``image``, a file or one a channel, and ``label``, if it has one."""

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")

NUMBER = re.compile(r"(?<![tT])\d$|\d\d$")
"""Endings of names that may count patients; those of T1 and T2, the weightings of MRI, do not."""

LABEL_DATASTORE = "datastore_v2.json"
"""File by which a folder is known to be a local datastore of MONAI Label."""


def find_images(folder: str, in_channels: int = 1) -> list[Item]:
    """Scans to segment: image files of ``folder`` and its sub-folders of DICOM files, one series each.

    Args:
        folder: a folder, or a single image file.
        in_channels: channels of the network; with several, files that differ in their last part only are the channels
            of one scan, see `group_channels`.

    Returns:
        Items with ``image``, sorted by path.

    Raises:
        FileNotFoundError: when nothing is found.
        ValueError: when a folder holds several DICOM series, or two scans would give results of the same name.
    """
    root = Path(folder)
    if root.is_file():
        if not root.name.lower().endswith(IMAGE_SUFFIXES):
            raise ValueError(f"{root} is no scan: expected a file ending in {', '.join(IMAGE_SUFFIXES)}.")
        return [{"image": str(root)}]
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist: set dataset_dir to the folder of scans to segment.")
    files = [p for p in root.iterdir() if is_image_file(p)]
    folders = [p for p in root.iterdir() if p.is_dir()] + ([] if files else [root])
    series = [folder for folder in folders if is_series(folder)]
    if not files and not series:
        raise FileNotFoundError(
            f"{root} holds no scan: expected files ending in {', '.join(IMAGE_SUFFIXES)} or folders of DICOM files."
        )
    scans = sorted(group_channels(files, in_channels) + [[p] for p in series])
    names = Counter(_result_name(paths[0]) for paths in scans)
    twins = [paths[0].name for paths in scans if names[_result_name(paths[0])] > 1]
    if twins:  # the second result would replace the first
        raise ValueError(f"{', '.join(twins)} in {root} would give results of one name: rename or move all but one.")
    return [{"image": str(paths[0]) if len(paths) == 1 else [str(p) for p in paths]} for paths in scans]


def _result_name(path: Path) -> str:
    """Name without suffix, as MONAI's ``SaveImage`` names results."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name


def find_unlabeled(labeled: Sequence[Item], held_out: Sequence[Item] | None = None) -> list[Item]:
    """Images without label that lie beside labelled ones in a local datastore of MONAI Label.

    MONAI Label's own app hands over the labelled cases alone, as a plain list. Only a folder that holds the datastore's
    ``datastore_v2.json`` is searched, so nobody else's training takes up images that nobody named. Files only: beside
    the volume that it converts from DICOM, Label keeps the folder of the series.

    Args:
        labeled: items of the training.
        held_out: items of the validation, whose images must not be trained on.

    Returns:
        Items with ``image``, sorted by path; none without such a datastore.
    """
    images = {
        Path(item["image"]).resolve()
        for item in (*labeled, *(held_out or ()))
        if isinstance(item.get("image"), str | Path)
    }
    folders = {image.parent for image in images if (image.parent / LABEL_DATASTORE).is_file()}
    found = sorted(
        file
        for folder in folders
        for file in (p for p in folder.iterdir() if is_image_file(p))
        if file.resolve() not in images
    )
    if found:
        logger.info("Found %d images without label in %s", len(found), ", ".join(map(str, sorted(folders))))
    return [{"image": str(file)} for file in found]


def is_image_file(path: Path) -> bool:
    """Whether a path is an image file by its name; hidden ones, such as the ``._NAME`` that macOS leaves, are not."""
    return path.name.lower().endswith(IMAGE_SUFFIXES) and path.name[0] != "." and path.is_file()


def stem(path: Path) -> str:
    """Name of an image without the suffix of its format."""
    suffix = next((s for s in (".nii.gz", *IMAGE_SUFFIXES) if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)]


def group_channels(paths: Sequence[Path], in_channels: int) -> list[list[Path]]:
    """Put the files that are channels of one scan together: same folder and name but for the part after the last ``_``.

    That part is nnU-Net's number of the channel (``case_0000.nii.gz``, ``case_0001.nii.gz``) or a word (BraTS's
    ``case_flair``, ``case_t1``), the same words for every scan. Other numbers may as well be those of patients. The
    channels are in alphabetical order of that part, in training and inference alike.

    Args:
        paths: image files.
        in_channels: channels of a scan.

    Returns:
        The files of each scan. A file that holds several channels itself stays alone, and so does one without
        ``in_channels - 1`` partners.

    Raises:
        ValueError: when files could be the channels of one scan or scans of their own.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(paths):
        groups.setdefault((path.parent, stem(path).rpartition("_")[0]), []).append(path)
    scans: list[list[Path]] = []
    words: tuple[list[str], list[Path]] | None = None
    for (_, name), group in groups.items():
        if in_channels == 1 or name == "" or len(group) != in_channels or any(map(_has_channels, group)):
            scans += [[path] for path in group]
            continue
        endings = [stem(path).rpartition("_")[2] for path in group]
        if endings != [f"{channel:04d}" for channel in range(in_channels)]:
            if any(map(NUMBER.search, endings)):
                raise ValueError(_ambiguous(group, "the ending is a number"))
            words = words or (endings, group)
            if endings != words[0]:
                raise ValueError(_ambiguous(group, f"{', '.join(path.name for path in words[1])} end otherwise"))
        scans.append(group)
    if words is not None:
        logger.info("Files are channels of one scan by the ends of their names, in this order: %s", ", ".join(words[0]))
    return scans


def _ambiguous(group: Sequence[Path], why: str) -> str:
    names = ", ".join(path.name for path in group)
    return (
        f"{names} in {group[0].parent} could be the channels of one scan or {len(group)} scans: {why}. If they are "
        "channels, end their names with _0000, _0001, ... or with a word for each channel, the same in all scans. If "
        "not, give each scan all its channels, and move those that lack some."
    )


def _has_channels(path: Path) -> bool:
    """Whether a file holds several channels, by its header; one that cannot be read has none."""
    try:
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        io.SetFileName(str(path))
        io.ReadImageInformation()
    except (AttributeError, RuntimeError):  # no reader, or a damaged header: whoever loads the file says so
        return False
    further_axes = [int(io.GetDimensions(axis)) for axis in range(3, io.GetNumberOfDimensions())]
    return int(io.GetNumberOfComponents()) * math.prod(further_axes) > 1


def is_series(folder: Path) -> bool:
    """Whether a folder holds the files of one DICOM series; several are an error."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(folder))
    uids = names.GetSeriesUIDs()
    if len(uids) > 1:  # MONAI would read the first one only
        raise ValueError(f"{folder} holds {len(uids)} DICOM series: put each into a folder of its own.")
    return len(uids) == 1
