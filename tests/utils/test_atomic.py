"""Atomic writing: the former file or the complete new one, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from simcvd_bundle.utils.atomic import atomically


def save(content: object, path: Path) -> None:
    with atomically(path) as unfinished:
        torch.save(content, unfinished)


def test_write_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.pt"
    save({"a": torch.ones(1)}, path)
    with pytest.raises(Exception, match="pickle"):
        save({"a": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"a": torch.ones(1)}
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == ["new/model.pt"]


def test_the_former_file_stays_until_the_end_and_the_suffix_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_text("former")
    with atomically(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "former"
        assert unfinished.name.endswith(".nii.gz")
        assert unfinished.parent == path.parent
    assert path.read_text() == "new"
