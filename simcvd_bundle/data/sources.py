"""The files that hold the voxels of a header in a file of its own: MetaImage (``.mhd``) and NRRD with detached data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

FIELDS = {".mhd": ("ElementDataFile", "="), ".mha": ("ElementDataFile", "="), ".nrrd": ("data file", ":")}
"""By suffix the field of the header that names the data, and what stands between it and its value."""
PATTERN = re.compile(r"(\S*%0?\d*d\S*)((?:\s+-?\d+){2,4})")
"""A name with a place for a number; first, last, step and dimensions."""
MAX_HEADER = 2**20


def data_files(header: Path) -> list[Path]:
    """Files that a header names: one, a list, or a pattern with first and last number (``slice%03d.raw 1 20 1``).

    Args:
        header: any file.

    Returns:
        The files in the order of the header; none when the voxels lie in the header's own file.

    Raises:
        FileNotFoundError: when one of them is missing.
    """
    if header.suffix.lower() not in FIELDS or not header.is_file():
        return []
    files = []
    for name in _names(header):
        files.append(header.parent / name)
        if not files[-1].is_file():
            raise FileNotFoundError(
                f"{header} has its voxels in {files[-1]}, which does not exist: put it there, or correct the header's "
                f"{FIELDS[header.suffix.lower()][0]!r}."
            )
    return files


def _names(header: Path) -> Iterator[str]:
    field, separator = FIELDS[header.suffix.lower()]
    with header.open("rb") as file:
        text = file.read(MAX_HEADER).decode("latin-1")
    lines = iter(text.splitlines())
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(separator))
        if name == "" and separator == ":":
            return  # an empty line ends the header of a NRRD file, and the data follow
        if name.lower().replace(" ", "") != field.lower().replace(" ", ""):
            continue
        pattern = PATTERN.fullmatch(value)
        if value.split()[:1] == ["LIST"]:
            yield from (line.strip() for line in lines if line.strip())
        elif pattern:
            first, last, step = (*map(int, pattern[2].split()), 1)[:3]
            yield from (pattern[1] % number for number in range(first, last + 1, max(step, 1)))
        elif value != "LOCAL":
            yield value
        return
