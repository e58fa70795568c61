"""Texts and lists on the command line, where fire reads ``2018_02`` as a number and leaves ``[a/b,c/d]`` a text."""

from __future__ import annotations

import csv
from typing import Any

from fire.parser import DefaultParseValue


def parse_list(text: str) -> list[str]:
    """The parts of ``[a,b]`` or ``['a','b']`` as texts; anything else is a list of that one text."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        parts = next(csv.reader([text], skipinitialspace=True, quotechar="'" if "'" in text else '"'), [])
        return [part.strip() for part in parts if part.strip()]
    return [text]


def parse_numbers(text: str) -> list[int]:
    """The whole numbers of ``[16,8]`` or ``16``.

    Raises:
        ValueError: when a part is no whole number.
    """
    try:
        return [int(part) for part in parse_list(text)]
    except ValueError:
        raise ValueError(f"{text!r} is no list of whole numbers: give them as [16,8].") from None


def argument(value: Any) -> str:
    """A value as a word of a command line that fire reads back as this value: the folder ``2018_02`` in quotes."""
    text = str(value)
    return repr(value) if isinstance(value, str) and DefaultParseValue(text) != value else text
