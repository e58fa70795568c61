"""The command line: help texts, and errors in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from simcvd_bundle.__main__ import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["simcvd_bundle", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return str(stop.value)


def test_user_errors_end_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    message = run(monkeypatch, "prepare", "la", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert message.startswith(f"error: {tmp_path / 'absent'} is not a folder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["la", "la_h5", "pancreas", "msd"])
def test_every_command_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    assert run(monkeypatch, "prepare", source, "--", "--help") == "0"
    text = "".join(capsys.readouterr())
    assert f"simcvd_bundle prepare {source}" in text
    assert "folder to write" in text


def test_report_has_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "report", "--", "--help") == "0"
    assert "output folders of evaluations" in "".join(capsys.readouterr())
