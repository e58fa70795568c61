"""The documents: their length, links and tables, and that what they name in commands, configs and code exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from simcvd_bundle.__main__ import COMMANDS

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONFIGS = {file.name: json.loads(file.read_text()) for file in (ROOT / "configs").glob("*.json")}
TRACKING = {"tracking", "tracking_uri", "experiment_name", "run_name"}
"""Options of MONAI's command line that are no ids."""


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def prose(document: Path) -> str:
    return re.sub(r"```.*?```", "", text_of(document), flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[list[str]]:
    """Every command of the documents as words, lines that end in a backslash joined."""
    blocks = [block for file in DOCUMENTS for block in re.findall(r"```(?:bash)?\n(.*?)```", text_of(file), re.DOTALL)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(python|torchrun) .*-m |python -m ", line)]


def options(words: list[str]) -> dict[str, str]:
    """Names and values that follow the module of a command."""
    own = words[words.index("-m") + 2 :]
    return {word[2:]: value for word, value in itertools.pairwise(own) if word.startswith("--")}


def test_the_readme_is_a_page_in_its_order() -> None:
    readme = text_of(ROOT / "README.md")
    assert readme.count("\n") <= 120
    parts = [
        "![", "make demo", "make test", "simcvd_bundle init", "```python", "| SimCVD (`models/model.pt`)",
        "| I want to ... | read |", "@article", "Apache License",
    ]  # fmt: skip
    places = [readme.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_lines_have_at_most_120_columns(document: Path) -> None:
    long = [line for line in text_of(document).splitlines() if len(line) > 120 and not re.match(r"\||\S+$", line)]
    assert long == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", prose(document)):
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = text_of(ROOT / "README.md")
    for document in DOCUMENTS:
        assert document.name == "README.md" or f"({document.relative_to(ROOT).as_posix()})" in readme, document


def test_no_row_of_a_table_stands_twice() -> None:
    rows = [line for file in DOCUMENTS for line in prose(file).splitlines() if re.match(r"\|.*\d", line)]
    assert [row for row, count in Counter(rows).items() if count > 1] == []


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    assert all(picture.stat().st_size < 300_000 for picture in pictures)


def test_commands_name_configs_and_ids_that_exist() -> None:
    found = [words for words in commands() if "monai.bundle" in words and "run" in words]
    assert len(found) > 15
    ids = {name for config in CONFIGS.values() for name in config} | TRACKING
    for words in found:
        given = options(words)
        if "$" not in given["config_file"]:  # a variable of the shell
            value = given.pop("config_file")
            for file in ast.literal_eval(value) if value.startswith("[") else [value]:
                assert not file.startswith("configs/") or Path(file).name in CONFIGS, file
        assert {name.split("::")[0] for name in given} - {"config_file"} <= ids, words


def test_our_commands_have_the_options_of_the_documents() -> None:
    found = [words[words.index("simcvd_bundle") + 1 :] for words in commands() if "simcvd_bundle" in words]
    assert {words[0] for words in found} == COMMANDS.keys()
    for command, *rest in found:
        function: Any = COMMANDS[command]
        if inspect.isclass(function):
            function = getattr(function, rest[0])
        given = set(options(["-m", "simcvd_bundle", *rest]))
        known = inspect.signature(function).parameters
        takes_ids = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        assert given <= known.keys() | (CONFIGS["train.json"].keys() if takes_ids else set()), [command, *rest]


def test_the_methods_name_classes_and_ids_that_exist() -> None:
    table = text_of(ROOT / "docs" / "methods.md").split("## One training step")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 12
    for _, code, ids in rows:
        for name in re.findall(r"`([\w.]+)`", code):
            room, _, part = name.rpartition(".")
            ours = not room.startswith(("torch", "monai"))
            module = importlib.import_module(f"simcvd_bundle.{room}" if ours else room)
            assert hasattr(module, part), name
        config = CONFIGS[next(iter(re.findall(r"^ (\w+\.json):", ids)), "train.json")]
        for name in re.findall(r"`([\w:]+)`", ids):
            assert name.split("::")[0] in config or f'"{name}"' in json.dumps(config), name
