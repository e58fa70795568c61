"""Which files of a folder are images, which are labels, and which belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from simcvd_bundle.data.scans import group_channels, is_image_file, is_series, stem

IMAGE_FOLDERS = ("image", "images", "imagestr", "imagests", "img", "imgs", "scan", "scans", "volumes")
LABEL_FOLDERS = (
    "label", "labels", "labelstr", "labelsts", "mask", "masks", "seg", "segs", "segmentation", "segmentations",
    "annotation", "annotations", "gt", "ground_truth", "groundtruth", "truth",
)  # fmt: skip
IMAGE_ENDING = re.compile(r"(?:^|[_.-])(image|img|scan)$", re.IGNORECASE)
LABEL_ENDING = re.compile(r"(?:^|[_.-])(labels?|masks?|seg|segmentation|annotation|gt|truth)$", re.IGNORECASE)
CHANNEL_ENDING = re.compile(r"_\d{4}$")
"""nnU-Net's channel number."""


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

    A label lies in a folder named like ``labels`` or ``masks``, or its name ends like ``_seg`` or ``_label``. It
    belongs to the image of the same name and sub-folder, such words, ``images`` and nnU-Net's ``_0000`` left out; else
    to the only image of its folder or that folder's only DICOM series. Files that are channels of one scan are
    put together (`group_channels`); without ``in_channels`` only nnU-Net's, recognised by a label named as the group.

    Args:
        root: the folder.
        in_channels: channels of a scan.
        images: pattern, relative to ``root``, that images match (``*/lgemri.nrrd``); other files are passed over.
        labels: the same for labels, instead of the words.

    Returns:
        Scans sorted by path, and the number of channels.

    Raises:
        FileNotFoundError: when there is no image.
        ValueError: when a label fits no image or several, or two labels fit one image.
    """
    files = [path for path in sorted(root.rglob("*")) if is_image_file(path) and not _hidden(path, root)]
    found_labels = [path for path in files if _is_label(path, root, labels)]
    single = [path for path in files if path not in set(found_labels) and _matches(path, root, images)]
    if in_channels is None:
        in_channels = _channels_of_nnunet(single, {_key(path, root) for path in found_labels}, root)
    scans = [tuple(group) for group in group_channels(single, in_channels)]
    scans += [(folder,) for folder in _series(root, {path.parent for path in files}) if _matches(folder, root, images)]
    if not scans:
        raise FileNotFoundError(
            f"{root} holds no image: expected .nii, .nii.gz, .nrrd, .mha or .mhd files or folders of DICOM files"
            + (f" that match {images!r}." if images else ".")
        )
    by_image = {image: label for label in found_labels for image in [_image_of(label, scans, root)]}
    if len(by_image) < len(found_labels):
        count = Counter(_image_of(label, scans, root) for label in found_labels)
        image = max(count, key=lambda image: count[image])
        both = [str(label) for label in found_labels if _image_of(label, scans, root) == image]
        raise ValueError(
            f"{image[0]} has {len(both)} labels, {', '.join(both[:3])}: merge them into one file with a value for each "
            "class, or say which files are labels with --labels PATTERN."
        )
    return [Scan(image, by_image.get(image)) for image in sorted(scans)], in_channels


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _matches(path: Path, root: Path, pattern: str | None) -> bool:
    return pattern is None or fnmatch(path.relative_to(root).as_posix(), pattern)


def _is_label(path: Path, root: Path, pattern: str | None) -> bool:
    if pattern is not None:
        return _matches(path, root, pattern)
    folders = path.relative_to(root).parts[:-1]
    return any(part.lower() in LABEL_FOLDERS for part in folders) or bool(LABEL_ENDING.search(stem(path)))


def _series(root: Path, with_files: set[Path]) -> Iterator[Path]:
    """Folders of DICOM files; those with image files of other formats are none."""
    for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
        files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        dicom = any(path.suffix.lower() in ("", ".dcm", ".ima") for path in files)
        if folder not in with_files and dicom and is_series(folder):
            yield folder


def _key(path: Path, root: Path) -> str:
    """What image and label have in common: sub-folders and name without the words that tell one from the other."""
    words = IMAGE_FOLDERS + LABEL_FOLDERS
    folders = [part for part in path.relative_to(root).parts[:-1] if part.lower() not in words]
    return "/".join([*folders, LABEL_ENDING.sub("", IMAGE_ENDING.sub("", stem(path)))])


def _channels_of_nnunet(images: Sequence[Path], label_keys: set[str], root: Path) -> int:
    keys = [_key(path, root) for path in images]
    count = Counter(CHANNEL_ENDING.sub("", key) for key in keys if CHANNEL_ENDING.search(key))
    return max((number for key, number in count.items() if key in label_keys), default=1)


def _image_of(label: Path, scans: Sequence[tuple[Path, ...]], root: Path) -> tuple[Path, ...]:
    """The scan that a label belongs to."""
    key = _key(label, root)

    def without_channel(image: tuple[Path, ...]) -> bool:
        name = _key(image[0], root)
        return key == (CHANNEL_ENDING.sub("", name) if len(image) == 1 else name.rpartition("_")[0])

    def same_name(image: tuple[Path, ...]) -> bool:
        return _key(image[0], root) == key

    def same_folder(image: tuple[Path, ...]) -> bool:
        return label.parent in image[0].parents

    own_folder = label.parent != root and label.parent.name.lower() not in LABEL_FOLDERS
    rules = [same_name, without_channel, *([same_folder] if own_folder else [])]
    for rule in rules:
        fitting = [image for image in scans if rule(image)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            names = ", ".join(str(image[0]) for image in fitting[:3])
            raise ValueError(
                f"The label {label} fits {len(fitting)} images ({names}): name it like its image, give --in_channels "
                "if these are channels of one scan, or choose the images with --images PATTERN."
            )
    raise ValueError(
        f"The label {label} fits no image: name it like its image (in a folder labels/, or with _label at the end), or "
        "say which files are labels and images with --labels PATTERN and --images PATTERN."
    )
