"""What results say about the code that made them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from simcvd_bundle.runs.provenance import commit


def test_commit_is_dirty_by_code_and_not_by_weights(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert commit(tmp_path) is None
    code, weights = tmp_path / "code.py", tmp_path / "models" / "model.pt"
    weights.parent.mkdir()
    code.write_text("1")
    weights.write_text("shipped")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    name = git("rev-parse", "HEAD")[:12]
    weights.write_text("trained")
    assert commit(tmp_path) == name
    code.write_text("2")
    assert commit(tmp_path) == f"{name}-dirty"
