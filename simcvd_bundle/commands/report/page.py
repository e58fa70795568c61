"""The parts of a page, and the page as HTML and as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2


@dataclass(frozen=True)
class Table:
    """A table of texts; every row has a cell for each column."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """An image as a ``data:`` address, with a text for those who do not see it."""

    source: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class FigureRow:
    """Figures that belong together; they wrap where the screen is narrow."""

    title: str
    figures: Sequence[Figure]
    text: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, and under it paragraphs, tables and figures in this order."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[FigureRow] = ()


def to_html(title: str, sections: Sequence[Section]) -> str:
    """One self-contained page: no script, nothing loaded from elsewhere, every text escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.render(title=title, sections=sections)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Headings, paragraphs and tables; figures are named, as they are in the HTML page only."""
    lines = [f"# {_text(title)}"]
    for section in sections:
        lines += ["", f"## {_text(section.title)}"]
        for paragraph in section.paragraphs:
            lines += ["", _text(paragraph)]
        for table in section.tables:
            lines += ["", f"### {_text(table.title)}", ""]
            rows = [table.header, ["---"] * len(table.header), *table.rows]
            lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
        for row in section.figures:
            lines += ["", f"Figures in report.html: {_text(row.title)}."]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False)


def _cell(text: str) -> str:
    return re.sub(r"([\\|`*\[\]])", r"\\\1", _text(text))
