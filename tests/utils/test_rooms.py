"""The rooms of the package: which may import which (docs/architecture.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from simcvd_bundle.utils.paths import PACKAGE

ORDER = ("utils", "networks", "losses", "data", "training", "inference", "evaluation", "runs", "commands")
"""A room may import those before it; networks, losses and data know utils alone."""
ALLOWED = {room: set(ORDER[:number]) for number, room in enumerate(ORDER)}
ALLOWED |= {room: {"utils"} for room in ("networks", "losses", "data")}
ALLOWED |= {"api": set(ORDER) - {"commands"}, "__main__": {"commands"}, "__init__": {"api"}}


def room_of(name: str) -> str:
    return name.removeprefix("simcvd_bundle").lstrip(".").split(".")[0]


def imported(file: Path) -> set[str]:
    """Rooms that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            module = node.module or ""
            names += [f"{module}.{alias.name}" for alias in node.names] if module == "simcvd_bundle" else [module]
    return {room_of(name) for name in names if name.startswith("simcvd_bundle.")}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    place = file.relative_to(PACKAGE).with_suffix("").parts[0]
    assert place in ALLOWED, f"{place} is a new room: give it a place in ORDER"
    assert imported(file) - {place} <= ALLOWED[place]
