"""Names of label values: those that files know, against those of the configuration."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

PLACEHOLDER = re.compile(
    r"(class|label|segment|segmentation|region|object|structure|value|foreground|mask|roi|ball)?[\W_]*\d*"
)
"""Names that say nothing, in small letters: ``init``'s, 3D Slicer's, bare numbers, ``train.json``'s default."""
SAID: set[tuple[int, str, str]] = set()
"""Other words that were warned of: once, not once a file."""


def same_word(name: Any) -> str:
    """What names have in common that differ in case, spaces and punctuation; empty for a placeholder."""
    word = str(name).strip().casefold()
    return "" if PLACEHOLDER.fullmatch(word) else re.sub(r"[\W_]+", " ", word).strip()


def names_of_datalist(content: Mapping[str, Any]) -> dict[int, str]:
    """Name of each value by the ``labels`` of a datalist: ``{"1": "liver"}`` (MSD) or ``{"liver": 1}`` (nnU-Net).

    Args:
        content: of the datalist.

    Returns:
        Nothing where ``labels`` is absent or of another form; regions of several values are left out.
    """
    labels = content.get("labels")
    names = {}
    for first, second in labels.items() if isinstance(labels, Mapping) else ():
        value, name = (second, first) if isinstance(second, int) else (first, second)
        if isinstance(name, str) and re.fullmatch(r"-?\d+", str(value)):
            names[int(value)] = name
    return names


def compare_names(
    found: Mapping[int, str], class_names: Mapping[str, str], values: Mapping[str, int] | None, source: str
) -> None:
    """Compare the names of a file with those of the configuration.

    A name of another value is an error, as classes would be mixed up. Another word for a value is a warning, once a
    process. Placeholders such as ``class 1`` say nothing, and so does the name of a value of a merged class.

    Args:
        found: name of each value by the file.
        class_names: name of each class, from ``"1"`` on.
        values: class of each value, ``label_values``; empty when the values are the classes.
        source: the file.

    Raises:
        ValueError: with the first name that stands at another value.
    """
    title = {int(index): name for index, name in class_names.items()}
    class_of = {0: 0} | ({int(v): c for v, c in values.items()} if values else {index: index for index in title})
    values_of = {index: [value for value, c in class_of.items() if c == index] for index in title}
    index_of = {same_word(name): index for index, name in title.items() if same_word(name)}
    for value, name in found.items():
        here, there = class_of.get(value), index_of.get(same_word(name))
        if there is not None and here != there:
            taken = f"{value} is {title[here]!r} and " if here in title else ""
            wanted = " or ".join(map(str, values_of[there])) or "no value"
            raise ValueError(
                f"{source} calls the value {value} {name!r}, but by class_names and label_values {taken}"
                f"{title[there]!r} is {wanted}: set them as the file has them, or mend the names or values of the file."
            )
        if here in title and there is None and same_word(name) and same_word(title[here]) and len(values_of[here]) == 1:
            if (value, name, title[here]) not in SAID:
                SAID.add((value, name, title[here]))
                logger.warning(
                    "%s calls the value %d %r, class_names call it %r: make sure that both mean the same.",
                    source, value, name, title[here],
                )  # fmt: skip
