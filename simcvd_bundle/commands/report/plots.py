"""Box plots, curves and error bars as SVG images.

Figures are made without pyplot: no global state, no window system.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Colours of Okabe and Ito that the common kinds of colour blindness keep apart, without the pale yellow."""
LINES = ("solid", "dashed", "dashdot", "dotted")
WIDTH_INCH = 4.4
"""About 420 CSS pixels: two or more side by side on a desktop, one on a phone with its letters nearly full size."""

Curve = tuple[Sequence[float], Sequence[float]]


@contextmanager
def style() -> Iterator[None]:
    """Settings of all figures: names are no formulas, the same figure gives the same bytes."""
    settings: Any = {
        "font.size": 9,
        "text.parse_math": False,
        "svg.hashsalt": "report",
    }
    with mpl.rc_context(settings):
        yield


def data_uri(figure: Figure, kind: str, dpi: float = 110) -> str:
    """The figure as an address that holds the image; ``kind`` is ``svg`` or ``png``."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{mime};base64,{base64.b64encode(stream.getvalue()).decode()}"


def box_plot(groups: Mapping[str, Sequence[float]], label: str) -> str:
    """One horizontal box a run (quartiles, median, whiskers to 1.5 times the quartile range), every case a point.

    Args:
        groups: run name to values, without NaN.
        label: title of the value axis, with its unit.
    """
    with style():
        axes = _axes(1.1 + 0.5 * len(groups))
        jitter = np.random.RandomState(0)
        for row, values in enumerate(groups.values()):
            if len(values) == 0:
                continue
            axes.plot(
                values, row + jitter.uniform(-0.18, 0.18, len(values)), ".", color=_color(row), alpha=0.5, markersize=4
            )
            axes.boxplot(
                [list(values)], positions=[row], orientation="horizontal", widths=0.55, showfliers=False,
                manage_ticks=False, medianprops={"color": "black", "linewidth": 2}, boxprops={"color": _color(row)},
            )  # fmt: skip
        axes.set_yticks(range(len(groups)), [textwrap.fill(name, 20) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        return data_uri(_figure(axes), "svg")


def curve_plot(curves: Mapping[str, Curve], title: str, label: str) -> str:
    """One line a run.

    Args:
        curves: run name to steps and values; a run without points keeps its colour and has no line.
        title: what is drawn.
        label: title of the horizontal axis.
    """
    with style():
        axes = _axes(2.8 + 0.2 * len(curves))
        for number, (name, (steps, values)) in enumerate(curves.items()):
            if len(steps):
                line = LINES[number % len(LINES)]
                axes.plot(steps, values, color=_color(number), linestyle=line, label=textwrap.fill(name, 40))
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
        return data_uri(_figure(axes), "svg")


def error_plot(points: Mapping[str, tuple[float, float, float]], label: str, value_label: str) -> str:
    """Mean and standard deviation of each run over a number.

    Args:
        points: run name to number, mean and standard deviation.
        label: title of the horizontal axis.
        value_label: title of the vertical axis, with its unit.
    """
    with style():
        axes = _axes(2.8 + 0.2 * len(points))
        for row, (name, (number, mean, std)) in enumerate(points.items()):
            axes.errorbar(
                [number], [mean], [std], fmt="os^vDPX"[row % 7], color=_color(row), capsize=4,
                label=textwrap.fill(name, 40),
            )  # fmt: skip
        axes.set_xticks(sorted({number for number, _, _ in points.values()}))
        axes.set_xlabel(label)
        axes.set_ylabel(value_label)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
        return data_uri(_figure(axes), "svg")


def _axes(height_inch: float) -> Axes:
    return Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained").add_subplot()


def _figure(axes: Axes) -> Figure:
    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure


def _color(number: int) -> str:
    return PALETTE[number % len(PALETTE)]
