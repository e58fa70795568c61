"""``cases.csv``: what became of each scan of an archive, one row a scan, written as it goes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from simcvd_bundle.utils.atomic import atomically
from simcvd_bundle.utils.locks import locked

DONE, FAILED = "done", "failed"
SEPARATOR = "|"
"""Between the names of the files of a row."""
LONGEST = 2**16
"""Bytes in which the end of the last whole row is looked for."""

Row = dict[str, str]


class CaseTable:
    """Table of the scans in a folder of results; all processes that share the scans write to the one file.

    Columns: ``path`` (absolute, of several files the first), ``status`` (done, failed), ``error``, ``seconds`` (network
    and postprocessing; reading and writing go on beside), for each class ``NAME_voxels`` and ``NAME_ml`` on the grid of
    the scan, ``quality`` and ``predicted_dice`` (docs/scaling.md), ``files`` (the results), ``settings`` (a digest of
    what determines them).

    A row is written, and on the disk, when all files of its scan are. A kill leaves at most a part of a row, which
    counts for nothing. A scan that is done again gets a second row, and the last one counts; `tidy` leaves out the
    others.

    Args:
        output_dir: folder of the results.
        class_names: name of each class index from 1.
    """

    def __init__(self, output_dir: str, class_names: Mapping[str, str]) -> None:
        self.folder = Path(output_dir)
        self.file = self.folder / "cases.csv"
        self.names = list(class_names.values())
        figures = [f"{name}_{unit}" for name in self.names for unit in ("voxels", "ml")]
        self.columns = [
            "path", "status", "error", "seconds", *figures, "quality", "predicted_dice", "files", "settings"
        ]  # fmt: skip
        self.settings = ""

    def add(self, path: str, status: str, values: Mapping[str, Any]) -> None:
        """Append the row of a scan.

        Args:
            path: the scan.
            status: ``DONE`` or ``FAILED``.
            values: other columns; those left out stay empty.

        Raises:
            OSError: when it cannot be written.
        """
        row = {"path": os.path.abspath(path), "status": status, "settings": self.settings, **values}
        try:
            with locked(self.lock), self.file.open("ab+") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - LONGEST))
                tail = stream.read()
                whole = size - len(tail) + tail.rfind(b"\n") + 1  # a kill or a full disk may have left a part of a row
                stream.truncate(whole)
                stream.write(self._text([row], header=not whole).encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise OSError(
                error.errno,
                f"{self.file} cannot be written ({error.strerror}): mend that and run again, scans that are done are "
                "skipped",
            ) from error

    def rows(self) -> dict[str, Row]:
        """As `read_table`."""
        return read_table(self.file)

    def start(self, settings: str, keep_others: bool) -> None:
        """Set the digest of the settings of the rows to come.

        Args:
            settings: eight digits.
            keep_others: whether rows of other settings stay.
        """
        self.settings = settings
        if not keep_others:
            self._rewrite(lambda row: row["settings"] == settings)

    def tidy(self) -> None:
        """Leave the last row of each scan, sorted by path."""
        self._rewrite(lambda row: True)

    def complete(self) -> set[str]:
        """Paths of the scans that are done with these settings and whose files are all there."""
        return {
            path for path, row in self.rows().items()
            if row["status"] == DONE and row["settings"] == self.settings
            and all((self.folder / name).is_file() for name in row["files"].split(SEPARATOR))
        }  # fmt: skip

    @property
    def lock(self) -> Path:
        """File by which processes wait for each other."""
        return self.folder / ".cases.lock"

    def _rewrite(self, keep: Any) -> None:
        if not self.file.is_file():
            return
        with locked(self.lock):
            rows = [row for _, row in sorted(self.rows().items()) if keep(row)]
            with atomically(self.file) as unfinished:
                unfinished.write_text(self._text(rows, header=True), encoding="utf-8", newline="")

    def _text(self, rows: Iterable[Mapping[str, Any]], header: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n", extrasaction="ignore")
        if header:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: " ".join(str(value).split("\n")) for name, value in row.items()})
        return text.getvalue()


def read_table(file: Path) -> dict[str, Row]:
    """The last whole row of each scan, by its path; none without the file.

    Raises:
        ValueError: when the file is no such table.
    """
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))  # without the part of a row that a kill left
    if reader.fieldnames is not None and not {"path", "status", "files", "settings"} <= set(reader.fieldnames):
        raise ValueError(f"{file} is not a table of inference: move it, or choose another output_dir.")
    return {row["path"]: row for row in reader}
