"""Scans in folders: which files there are, and which of them are scans."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Container, Iterable, Iterator, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any

from simcvd_bundle.data.channels import group_channels
from simcvd_bundle.data.masks import split_masks
from simcvd_bundle.data.names import IMAGE_SUFFIXES, stem
from simcvd_bundle.data.reading import is_dicom_folder
from simcvd_bundle.data.scan_lists import LIST_SUFFIXES, listed, matches

logger = logging.getLogger(__name__)

Item = dict[str, Any]
"""A case: ``image``, a file or one a channel, and ``label``, if it has one."""

LABEL_DATASTORE = "datastore_v2.json"
"""File by which a folder is known to be a local datastore of MONAI Label."""


def find_images(folder: str, in_channels: int = 1) -> list[Item]:
    """Scans to segment: of a folder, of a pattern or of a list.

    Of a folder the image files and the sub-folders of DICOM files; of a pattern those that match, see `matches`; of a
    CSV or JSON file those that it lists, see `listed`. Masks beside their scans (`split_masks`) are none unless a list
    names them, links are followed, and of several links to one file or folder one counts.

    Args:
        folder: a folder, a single image file, a pattern such as ``archive/*/ct.nii.gz``, or a list.
        in_channels: channels of the network; with several, files that differ in their last part only are the channels
            of one scan, see `group_channels`; a JSON list names them itself.

    Returns:
        Items with ``image``, sorted by path, or as listed.

    Raises:
        FileNotFoundError: when nothing is found.
        ValueError: when two scans would give results of the same name.
    """
    root = Path(folder)
    if root.is_file() and root.suffix.lower() in LIST_SUFFIXES:
        scans = listed(root)
    elif root.is_file():
        if not root.name.lower().endswith(IMAGE_SUFFIXES):
            raise ValueError(
                f"{root} is no scan: expected a file ending in {', '.join(IMAGE_SUFFIXES)}, or a list of scans ending "
                f"in {', '.join(LIST_SUFFIXES)}."
            )
        scans = [[root]]
    elif not root.exists() and has_magic(folder):
        found = once(matches(folder))
        series = [path for path in found if is_dicom_folder(path)]
        files = [file for place in sorted({path.parent for path in found}) for file in scans_of(
            place, (path for path in series if path.parent == place), set(found))]  # fmt: skip
        scans = _sorted(files, series, in_channels, folder)
    elif root.is_dir():
        folders = once(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        series = [path for path in folders if is_dicom_folder(path)]
        own = [root] if is_dicom_folder(root) else []
        files = scans_of(root, [*series, *own])
        scans = _sorted(files, series + (own if not files else []), in_channels, folder)
    else:
        raise FileNotFoundError(f"{root} does not exist: set dataset_dir to the folder of scans to segment.")
    names = Counter(stem(paths[0]) for paths in scans)
    twins = [str(paths[0]) for paths in scans if names[stem(paths[0])] > 1]
    if twins:  # the second result would replace the first
        raise ValueError(
            f"{', '.join(twins[:10])}{', ...' if len(twins) > 10 else ''} in {folder} would give results of one name: "
            "rename or move all but one, or segment them in several runs with an output_dir each."
        )
    return [{"image": str(paths[0]) if len(paths) == 1 else [str(p) for p in paths]} for paths in scans]


def _sorted(files: Sequence[Path], series: Sequence[Path], in_channels: int, source: str) -> list[list[Path]]:
    """The files of each scan, sorted."""
    if not files and not series:
        raise FileNotFoundError(
            f"{source} holds no scan: expected files ending in {', '.join(IMAGE_SUFFIXES)} or folders of DICOM files."
        )
    return sorted(group_channels(files, in_channels) + [[p] for p in series])


def find_unlabeled(labeled: Sequence[Item], held_out: Sequence[Item] | None = None) -> list[Item]:
    """Images without label that lie beside labelled ones in a local datastore of MONAI Label.

    MONAI Label's own app hands over the labelled cases alone, as a plain list. Only a folder that holds the datastore's
    ``datastore_v2.json`` is searched, so nobody else's training takes up images that nobody named. Files only: beside
    the volume that it converts from DICOM, Label keeps the folder of the series. Masks are none (`split_masks`).

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
    found = sorted(file for folder in folders for file in scans_of(folder) if file.resolve() not in images)
    if found:
        logger.info("Found %d images without label in %s", len(found), ", ".join(map(str, sorted(folders))))
    return [{"image": str(file)} for file in found]


def scans_of(folder: Path, series: Iterable[Path] = (), chosen: Container[Path] | None = None) -> list[Path]:
    """Image files of a folder without the masks beside them; a log entry says which were passed over.

    Args:
        folder: the folder.
        series: folders in it that are scans.
        chosen: those of its files that are asked for; all by default.
    """
    files = once(path for path in folder.iterdir() if is_image_file(path))
    scans, masks, odd = (
        [path for path in part if chosen is None or path in chosen] for part in split_masks(files, series)
    )
    if masks:
        logger.info("Passed over %d masks beside scans in %s: %s", len(masks), folder, _example(masks))
    if odd:
        logger.warning("Called like masks, but without a scan of their name, so taken as scans: %s", _example(odd))
    return scans


def _example(paths: Sequence[Path]) -> str:
    return paths[0].name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def is_image_file(path: Path) -> bool:
    """Whether a path is an image file by its name; hidden ones, such as the ``._NAME`` that macOS leaves, are not.

    A link that leads nowhere is one: whoever reads it says so.
    """
    return path.name.lower().endswith(IMAGE_SUFFIXES) and path.name[0] != "." and not path.is_dir()


def walk(root: Path) -> Iterator[Path]:
    """A folder and all folders below it but hidden ones; links are followed, and each folder comes once.

    A folder that can be reached without a link is called by that path.
    """
    seen: set[Path] = set()
    folders, links = deque([root]), deque[Path]()
    while folders or links:
        folder = (folders or links).popleft()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        yield folder
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                (links if path.is_symlink() else folders).append(path)
            elif not path.exists():
                logger.warning("The link %s leads nowhere: what it is to name is missing.", path)


def once(paths: Iterable[Path]) -> list[Path]:
    """The paths in order, of several to one file or folder the first that is no link."""
    by_file: dict[Path, Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        first = by_file.setdefault(path.resolve(), path)
        if first != path:
            logger.warning("%s and %s are one: the first is taken.", first, path)
    return sorted(by_file.values())
