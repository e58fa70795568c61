"""Which image a label belongs to, by their names, and what to say when they do not tell."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from fnmatch import translate
from glob import escape
from pathlib import Path
from typing import Any

from simcvd_bundle.data.names import NUMBER, case_words, stem

CHANNEL_ENDING = re.compile(r"_\d{4}$")
"""nnU-Net's channel number."""

Image = tuple[Path, ...]
Words = tuple[str, ...]


class Pairing:
    """Finds the image of a label.

    With patterns for both, image and label share what the stars stand for. Else the first of these rules that fits any
    image decides: the words of their names and folders, those for images and labels left out (`case_words`), are the
    same; those of the names are, and the folders of one hold those of the other in order; the same two without the
    channel, and without words that all images or all labels have and none of the others (``_ct``, ``-vert``); it is the
    only image that is, lies in or lies below the nearest folder above the label that fits.

    Args:
        root: the folder that was searched.
        images: the files of every scan.
        labels: all labels.
        image_pattern: pattern that chose the images.
        label_pattern: pattern that chose the labels.
    """

    def __init__(
        self, root: Path, images: Sequence[Image], labels: Sequence[Path], image_pattern: str | None,
        label_pattern: str | None,
    ) -> None:  # fmt: skip
        self.root = root
        self.images, self.folders = images, {image: _folders(image[0], root) for image in images}
        words = {image: [case_words(name) for name in _names(image)] for image in images}
        of_images, of_labels = [words[image][0] for image in images], [case_words(stem(label)) for label in labels]
        common, self.common = _common(of_images, of_labels), _common(of_labels, of_images)
        self.by_name = _index((words[image][0], image) for image in images)
        self.by_group = _index((words[image][1], image) for image in images)
        self.by_rest = _index((_drop(words[image][0], common), image) for image in images)
        self.below = _index((folder, image) for image in images for folder in (image[0], *image[0].parents))
        self.words = {image: words[image][0] for image in images}
        self.label_pattern = label_pattern if image_pattern is not None else None
        self.stars = {image: _stars(image[0].relative_to(root), image_pattern or "") for image in images}

    def image_of(self, label: Path) -> Image:
        """The image.

        Raises:
            ValueError: when none fits, or several; with patterns that make it fit.
        """
        for fitting in self._rules(label):
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                names = ", ".join(str(image[0]) for image in fitting[:3])
                raise ValueError(
                    f"The label {label} fits {len(fitting)} images ({names}): choose one for each label, such as "
                    f"{self._options(fitting[0], label)}, or give --in_channels if these are channels of one scan."
                )
        raise ValueError(
            f"The label {label} fits no image: name it like its image (in a folder labels/, or with _label at the end) "
            "or give patterns for both, whose stars stand for what image and label share, such as "
            f"{self._options(self._nearest(label), label)}."
        )

    def _rules(self, label: Path) -> Iterator[list[Image]]:
        """The images that fit, by one rule after the other."""
        if self.label_pattern is not None:
            stars = _stars(label.relative_to(self.root), self.label_pattern)
            yield [i for i in self.images if bool(self.stars[i]) == bool(stars) and _in_order(self.stars[i], stars)]
        words, folders = case_words(stem(label)), _folders(label, self.root)
        yield [image for image in self.by_name[words] if self.folders[image] == folders]
        rest = _drop(words, self.common)
        for index, name in ((self.by_name, words), (self.by_group, words), (self.by_rest, rest)):
            yield [image for image in index[name] if name and _in_order(self.folders[image], folders)]
        home = next((folder for folder in label.parents if folder in self.below), self.root)
        if home != self.root:
            yield [image for image in self.below[home] if not _other_case(self.words[image], words)]

    def _nearest(self, label: Path) -> Image:
        name = _plain(label.relative_to(self.root))
        return max(self.images, key=lambda image: _shared(_plain(image[0].relative_to(self.root)), name))

    def _options(self, image: Image, label: Path) -> str:
        images, labels = suggest(image[0].relative_to(self.root), label.relative_to(self.root))
        return f'--images "{images}" --labels "{labels}"'


def channels_of_nnunet(images: Sequence[Path], labels: Sequence[Path], root: Path) -> int:
    """Channels of a scan: how many images are called like a label but for nnU-Net's number at the end; else 1."""
    keys = [(_folders(path, root), stem(path)) for path in images]
    count = Counter((f, case_words(CHANNEL_ENDING.sub("", name))) for f, name in keys if CHANNEL_ENDING.search(name))
    of_labels = {(_folders(path, root), case_words(stem(path))) for path in labels}
    return max((number for key, number in count.items() if key in of_labels), default=1)


def suggest(image: Path, label: Path) -> tuple[str, str]:
    """Patterns for an image and its label, paths relative to the folder: what both have in common becomes a star."""
    patterns = [re.findall(r"\d+|[^\W\d_]+|[\W_]", _plain(path)) for path in (image, label)]
    blocks = SequenceMatcher(None, patterns[0], patterns[1], autojunk=False).get_matching_blocks()
    for first, second, size in reversed(blocks):
        block = patterns[0][first : first + size]
        words = [number for number, part in enumerate(block) if part.isalnum()]
        if words:
            for pattern, start in zip(patterns, (first, second), strict=True):
                pattern[start + words[0] : start + words[-1] + 1] = [""]
    texts = []
    for path, pattern in zip((image, label), patterns, strict=True):
        *folders, name = "".join(escape(part) or "*" for part in pattern).split("/")
        folders = ["*" if any(map(str.isdigit, folder)) else folder for folder in folders]  # site1, site2
        texts.append("/".join([*folders, name]) + path.name[len(stem(path)) :])
    return texts[0], texts[1]


def _plain(path: Path) -> str:
    return (path.parent / stem(path)).as_posix()


def _shared(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


def _names(image: Image) -> list[str]:
    """The name of an image, and its names without the channel."""
    name = stem(image[0])
    return [name, *([CHANNEL_ENDING.sub("", name)] if len(image) == 1 else [name.rpartition("_")[0]])]


def _folders(path: Path, root: Path) -> Words:
    return tuple(" ".join(words) for part in path.relative_to(root).parts[:-1] for words in [case_words(part)] if words)


def _index(pairs: Iterable[tuple[Any, Image]]) -> dict[Any, list[Image]]:
    index = defaultdict(list)
    for key, image in pairs:
        index[key].append(image)
    return index


def _in_order(first: Words, second: Words) -> bool:
    """Whether the longer one holds all of the shorter one in its order."""
    shorter, longer = sorted((first, second), key=len)
    rest = iter(longer)
    return all(word in rest for word in shorter)


def _common(names: Sequence[Words], others: Sequence[Words]) -> set[str]:
    """Words of all names and of none of the others that cannot count patients; of two names at least."""
    if len(names) < 2:
        return set()
    return {w for w in set.intersection(*map(set, names)) - set().union(*others) if not NUMBER.search(w)}


def _drop(words: Words, common: set[str]) -> Words:
    return tuple(word for word in words if word not in common)


def _other_case(image: Words, label: Words) -> bool:
    """Whether both have words that count and these differ."""
    numbers = [[word for word in words if NUMBER.search(word)] for words in (image, label)]
    return all(numbers) and numbers[0] != numbers[1]


def _stars(path: Path, pattern: str) -> Words:
    """What the stars of a pattern stand for in a path that it matches."""
    expression = "(.*)".join(translate(piece)[4:-3] for piece in pattern.split("*"))  # without its (?s: and )\\Z
    found = re.fullmatch(expression, path.as_posix(), re.DOTALL)
    return found.groups() if found else ()
