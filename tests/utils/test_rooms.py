"""The rooms of the package: which may import which (docs/architecture.md)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from simcvd_bundle.utils.paths import PACKAGE

ORDER = ("utils", "networks", "losses", "data", "training", "inference", "evaluation", "runs", "commands")
"""A room may import those before it; networks, losses and data know utils alone."""
ALLOWED = {room: set(ORDER[:number]) for number, room in enumerate(ORDER)}
ALLOWED |= {room: {"utils"} for room in ("networks", "losses", "data")}
ALLOWED |= {"api": set(ORDER) - {"commands"}, "__main__": {"commands"}, "__init__": {"api"}}
LABEL_HAS = {"PIL", "edt", "ignite", "itk", "monai", "nibabel", "numpy", "pydicom", "scipy", "torch", "tqdm"}


def room_of(name: str) -> str:
    return name.removeprefix("simcvd_bundle").lstrip(".").split(".")[0]


def imported(file: Path) -> list[str]:
    """Modules that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            module = node.module or ""
            names += [f"{module}.{alias.name}" for alias in node.names] if module == "simcvd_bundle" else [module]
    return names


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path) -> None:
    place = file.relative_to(PACKAGE).with_suffix("").parts[0]
    assert place in ALLOWED, f"{place} is a new room: give it a place in ORDER"
    rooms = {room_of(name) for name in imported(file) if name.startswith("simcvd_bundle.")}
    assert rooms - {place} <= ALLOWED[place]


@pytest.mark.parametrize("room", ORDER[:-1])
def test_a_labelling_server_has_all_that_is_imported(room: str) -> None:
    """Packages of docs/monai_label.md, and what they bring: Label's environment is not ours."""
    names = {name.split(".")[0] for file in (PACKAGE / room).rglob("*.py") for name in imported(file)}
    assert names - set(sys.stdlib_module_names) - {"simcvd_bundle"} <= LABEL_HAS
