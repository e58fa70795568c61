"""Which files of a folder are images, and which are labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from simcvd_bundle.commands.init.pairing import Pairing, channels_of_nnunet, suggest
from simcvd_bundle.data.channels import group_channels
from simcvd_bundle.data.masks import RESULTS, is_prediction, result_of
from simcvd_bundle.data.names import IMAGE_SUFFIXES, is_named_label, label_words, stem
from simcvd_bundle.data.reading import is_dicom_folder
from simcvd_bundle.data.scans import LABEL_DATASTORE, is_image_file, once, walk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scan:
    """A scan as it was found.

    Attributes:
        image: its file, the files of its channels, or its folder of DICOM files.
        label: its label, if any.
    """

    image: tuple[Path, ...]
    label: Path | None


def find_scans(
    root: Path, in_channels: int | None = None, images: str | None = None, labels: str | None = None
) -> tuple[list[Scan], int]:
    """Find images below a folder and pair them with labels.

    A label has one of the words of ``data/names.py`` in its name, or lies in a folder that has (`is_named_label`);
    words that all names have say nothing. It belongs to the image that `Pairing` finds. Masks that the bundle predicted
    and drafts of MONAI Label are no labels unless ``labels`` says so. Files that are channels of one scan are put
    together (`group_channels`); without ``in_channels`` only nnU-Net's, recognised by a label named as the group. Links
    are followed.

    Args:
        root: the folder.
        in_channels: channels of a scan.
        images: pattern, relative to ``root``, that images match (``*/lgemri.nrrd``); other files are passed over.
        labels: the same for labels, instead of the words; what the words call labels is still no image.

    Returns:
        Scans sorted by path, and the number of channels.

    Raises:
        FileNotFoundError: when there is no image.
        ValueError: when a label fits no image or several, or two labels fit one image.
    """
    folders = list(walk(root))
    files = [path for folder in folders for path in sorted(folder.iterdir()) if is_image_file(path)]
    files = _without(files, _is_result, labels, root, "results of the bundle", "*_seg.nii.gz")
    files = _without(files, partial(_is_draft, root), labels, root, "drafts of MONAI Label", "labels/original/*")
    with_images = {path.parent for path in files if not is_named_label(path.relative_to(root))}
    series = [folder for folder in folders if folder not in with_images and is_dicom_folder(folder)]
    relative = [path.relative_to(root) for path in (*files, *series)]
    ignored = set.intersection(*map(_label_words, relative)) if relative else set()

    def named_label(path: Path) -> bool:
        return is_named_label(path.relative_to(root), ignored)

    found_labels = [path for path in files if (named_label(path) if labels is None else _matches(path, root, labels))]
    others = {*files, *series} - set(found_labels)
    candidates = once(path for path in others if _matches(path, root, images))
    plain = [path for path in candidates if not named_label(path)]
    if images is None or plain:  # a pattern that only such files match means them
        _tell([path for path in candidates if named_label(path)], "named like labels, so no images")
        candidates = plain
    in_files = [path for path in candidates if not path.is_dir()]
    if in_channels is None:
        in_channels = channels_of_nnunet(in_files, found_labels, root)
    scans = [tuple(group) for group in group_channels(in_files, in_channels)]
    scans += [(path,) for path in candidates if path.is_dir()]
    if not scans:
        raise FileNotFoundError(_no_image(root, images, found_labels))
    by_image = _by_image(found_labels, Pairing(root, scans, found_labels, images, labels))
    return [Scan(image, by_image.get(image)) for image in sorted(scans)], in_channels


def _by_image(labels: Sequence[Path], pairing: Pairing) -> dict[tuple[Path, ...], Path]:
    pairs: dict[tuple[Path, ...], dict[Path, Path]] = {}
    for label in labels:  # two links to one file are one label
        pairs.setdefault(pairing.image_of(label), {}).setdefault(label.resolve(), label)
    for image, by_file in pairs.items():
        found = list(by_file.values())
        if len(found) > 1:
            pattern = suggest(image[0].relative_to(pairing.root), found[0].relative_to(pairing.root))[1]
            raise ValueError(
                f"{image[0]} has {len(found)} labels, {', '.join(map(str, found[:3]))}: merge them into one file with "
                f'a value for each class, or choose one for each image, such as --labels "{pattern}".'
            )
    return {image: next(iter(by_file.values())) for image, by_file in pairs.items()}


def _matches(path: Path, root: Path, pattern: str | None) -> bool:
    return pattern is None or fnmatch(path.relative_to(root).as_posix(), pattern)


def _label_words(path: Path) -> set[str]:
    return label_words(stem(path)).union(*map(label_words, path.parts[:-1]))


def _is_result(path: Path) -> bool:
    """Whether the bundle made a file, by its mark, or by its name beside its scan, but ``_seg``, a name for labels."""
    scan = result_of(path)
    maps = scan is not None and not stem(path).endswith(f"_{RESULTS[0]}")
    beside = maps and any((path.parent / f"{scan}{suffix}").exists() for suffix in ("", *IMAGE_SUFFIXES))
    return beside or is_prediction(path)


def _is_draft(root: Path, path: Path) -> bool:
    """Whether MONAI Label keeps a file as a label that is not final."""
    parts = path.relative_to(root).parts
    return any(
        (part, parts[number + 1] == "final") == ("labels", False)
        and root.joinpath(*parts[:number], LABEL_DATASTORE).is_file()
        for number, part in enumerate(parts[:-2])
    )


def _without(
    files: Sequence[Path], left_out: Callable[[Path], bool], labels: str | None, root: Path, kind: str, pattern: str
) -> list[Path]:
    """Leave out what ``labels`` does not ask for."""
    out = [path for path in files if left_out(path) and (labels is None or not _matches(path, root, labels))]
    _tell(out, f'{kind}, neither images nor labels; --labels "{pattern}" takes such masks as labels')
    return [path for path in files if path not in set(out)] if out else list(files)


def _tell(paths: Sequence[Path], reason: str) -> None:
    if paths:
        logger.warning("%d files left out, %s first: %s.", len(paths), paths[0], reason)


def _no_image(root: Path, images: str | None, labels: Sequence[Path]) -> str:
    if labels and images is None:
        return (
            f"{root} holds no image: all {len(labels)} files are named like labels, {labels[0]} first. Say which are "
            "images with --images PATTERN."
        )
    return f"{root} holds no image: expected .nii, .nii.gz, .nrrd, .mha or .mhd files or folders of DICOM files" + (
        f" that match {images!r}." if images else "."
    )
