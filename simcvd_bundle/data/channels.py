"""Which files are the channels of one scan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from simcvd_bundle.data.names import NUMBER, stem
from simcvd_bundle.data.reading import open_volume

logger = logging.getLogger(__name__)


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
        return open_volume(path).channels > 1
    except (ValueError, OSError):  # whoever loads the file says so
        return False
