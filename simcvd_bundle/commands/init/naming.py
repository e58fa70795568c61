"""Names of the classes: those that label files and an index beside them agree on, or those that were given."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from simcvd_bundle.data.class_names import names_of_datalist, same_word

Names = Mapping[Path, Mapping[int, str]]
"""Names of values by the files that know them."""


def names_of_index(path: Path) -> dict[int, str]:
    """Names that a datalist beside the data gives, if there is one that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not ours to mend: it is not needed
        return {}
    return names_of_datalist(content) if isinstance(content, dict) else {}


def choose_names(values: Sequence[int], found: Names, given: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A name for every value, and what to say of them.

    Args:
        values: label values other than 0, ascending.
        found: names in files; placeholders such as ``Segment_1`` do not count.
        given: names for all values that were asked for.

    Raises:
        ValueError: when there are too many values or not as many names, or, without ``given``, when files contradict
            each other: two names for a value, or a name for two values.
    """
    if len(values) > 255:
        raise ValueError(f"The labels hold {len(values)} values: is one of them an image? --labels PATTERN says which.")
    if given is not None and (len(given) != len(values) or len(set(given)) < len(given)):
        raise ValueError(
            f"class_names are {list(given)}, but the labels hold the values {list(values)}: a name for each, all "
            "different. A class that no label shows cannot be learnt."
        )
    first: dict[tuple[int, str], tuple[str, Path]] = {}
    for path, names in found.items():
        for value, name in names.items():
            if value in values and same_word(name):
                first.setdefault((value, same_word(name)), (name.strip(), path))
    quarrels = _quarrels(first)
    if given is None:
        if quarrels:
            raise ValueError(
                f"Files disagree on the names of label values, so classes may be mixed up: {'; '.join(quarrels[:5])}. "
                "Give a class the same value in all files (in 3D Slicer by exporting label maps with one colour table) "
                "or, where only words differ, set --class_names. Nothing was written."
            )
        known = {value: name for (value, _), (name, _) in first.items()}
        files = list(dict.fromkeys(path.name for _, path in first.values()))
        notes = [f"names of classes are those in {', '.join(files[:3])}" + (" ..." if len(files) > 3 else "")]
        return [known.get(value, f"class {value}") for value in values], notes if known else []
    asked = dict(zip(values, given, strict=True))
    notes = [
        f"--class_names calls {value} {asked[value]!r}, {path} {name!r}"
        for (value, word), (name, path) in first.items()
        if word != same_word(asked[value])
    ]
    return list(given), [*notes[:10], *(f"files disagree: {quarrel}" for quarrel in quarrels[:5])]


def _quarrels(first: Mapping[tuple[int, str], tuple[str, Path]]) -> list[str]:
    """Names with several values; values with several names, the former left out."""
    of_word: dict[str, list[str]] = {}
    for (value, word), (_, path) in first.items():
        of_word.setdefault(word, []).append(f"{value} in {path}")
    moved = {word: places for word, places in of_word.items() if len(places) > 1}
    of_value: dict[int, list[str]] = {}
    for (value, word), (name, path) in first.items():
        if word not in moved:
            of_value.setdefault(value, []).append(f"{name!r} in {path}")
    found = [(repr(word), places) for word, places in moved.items()]
    found += [(str(value), places) for value, places in of_value.items() if len(places) > 1]
    return [f"{what} is {', '.join(places[:3])}" for what, places in found]
