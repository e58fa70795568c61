"""Evaluations of one or several runs as one page for a researcher: tables, tests, plots and contours."""

from __future__ import annotations

from simcvd_bundle.commands.report.command import report

__all__ = ["report"]
