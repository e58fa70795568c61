"""Scans that are named by a pattern or in a list instead of by their folder."""

from __future__ import annotations

import csv
import glob
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

LIST_SUFFIXES = (".csv", ".json")
COLUMNS = ("image", "path")
"""Names that the column of the scans may have in a CSV file; the second is that of ``cases.csv``."""
SHOWN = 5
"""How many bad paths an error names."""


def matches(pattern: str) -> list[Path]:
    """Files and folders of a pattern with ``*``, ``?`` or ``[...]``; ``**`` stands for folders of any depth.

    Raises:
        FileNotFoundError: when there are none.
    """
    found = sorted(map(Path, glob.glob(pattern, recursive=True)))
    if not found:
        raise FileNotFoundError(f"Nothing matches {pattern}: set dataset_dir to the scans to segment.")
    return found


def listed(file: Path) -> list[list[Path]]:
    """The scans of a list, each a file, a folder of DICOM files, or one file a channel.

    Args:
        file: a CSV file with a column ``image`` or ``path``, or a JSON list of paths, of lists of one path a channel,
            or of objects with one of either under ``image``. Paths are relative to the folder of the list.

    Returns:
        The paths of each scan, in the order of the list.

    Raises:
        FileNotFoundError: when a path leads nowhere.
        ValueError: when the file is no such list, is empty, or names a scan twice.
    """
    try:
        entries = list(_of_csv(file) if file.suffix.lower() == ".csv" else _of_json(file))
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as a list of scans: {error}") from error
    if not entries:
        raise ValueError(f"{file} names no scan.")
    scans = [[file.parent / part for part in entry] for entry in entries]
    missing = [str(path) for scan in scans for path in scan if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{file} names {len(missing)} files that do not exist: {_some(missing)}. Paths are relative to the folder "
            "of the list: mend or remove them."
        )
    counts = Counter(scan[0].resolve() for scan in scans)
    doubled = [str(path) for path, count in counts.items() if count > 1]
    if doubled:
        raise ValueError(f"{file} names {len(doubled)} scans more than once: {_some(doubled)}. Leave each in once.")
    return scans


def _of_csv(file: Path) -> Iterator[list[str]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        column = next((name for name in COLUMNS if name in (reader.fieldnames or ())), None)
        if column is None:
            raise ValueError(f"{file} has no column {' or '.join(COLUMNS)} in its first line.")
        for row in reader:
            if not row[column]:
                raise ValueError(f"Line {reader.line_num} of {file} has nothing in its column {column}.")
            yield [row[column]]


def _of_json(file: Path) -> Iterator[list[str]]:
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise ValueError(f"{file} is no list of scans: expected [path, ...] or [{{'image': path}}, ...].")
    for number, entry in enumerate(content, start=1):
        image: Any = entry.get("image") if isinstance(entry, dict) else entry
        parts = image if isinstance(image, list) else [image]
        if not parts or not all(isinstance(part, str) and part for part in parts):
            raise ValueError(f"Entry {number} of {file} is no path, no list of one path a channel, and has no image.")
        yield parts


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
