"""The files behind a header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simcvd_bundle.data.sources import data_files

META = "ObjectType = Image\nNDims = 3\nElementDataFile = "
NRRD = "NRRD0004\n# a comment\ntype: short\nspace origin:=x\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.mhd", META + "a.raw\n", ["a.raw"]),
        ("A.MHD", "ndims=3\nelementdatafile=my scan.zraw", ["my scan.zraw"]),
        ("a.mhd", META + "sub/a.raw\n", ["sub/a.raw"]),
        ("a.mhd", META + "LIST\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("a.mhd", META + "LIST 2D\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("a.mhd", META + "s%03d.raw 1 5 2\n", ["s001.raw", "s003.raw", "s005.raw"]),
        ("a.mhd", META + "s%d.raw 8 10", ["s8.raw", "s9.raw", "s10.raw"]),
        ("a.mhd", META + "50% dose.raw\n", ["50% dose.raw"]),
        ("a.mha", META + "LOCAL\nElementDataFile = b.raw\n", []),
        ("a.mha", META + "a.raw\n", ["a.raw"]),
        ("a.nrrd", NRRD + "data file: a.raw\nsizes: 1 2 3\n", ["a.raw"]),
        ("a.nrrd", NRRD + "datafile: LIST\n1.raw\n2.raw\n", ["1.raw", "2.raw"]),
        ("a.nrrd", NRRD + "data file: s%02d.raw 1 2 1 2\n", ["s01.raw", "s02.raw"]),
        ("a.nrrd", NRRD + "\ndata file: b.raw\n", []),
        ("a.nii", META + "a.raw\n", []),
    ],
)
def test_forms(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    header = tmp_path / name
    header.write_text(text)
    files = [tmp_path / file for file in expected]
    for file in files[:-1]:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    if files:
        message = f"{header} has its voxels in {files[-1]}, which does not exist: put it there, or correct the header's"
        with pytest.raises(FileNotFoundError, match=re.escape(message)):
            data_files(header)
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].touch()
    assert data_files(header) == files


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 40])
def test_any_bytes_have_no_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mha").write_bytes(content)
    assert data_files(tmp_path / "a.mha") == data_files(tmp_path / "absent.mhd") == []
