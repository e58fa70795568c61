"""How far the runs of an experiment are, from their folders and SLURM's queue."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from simcvd_bundle.commands.jobs import JOB, Queued, queued
from simcvd_bundle.runs.folder import folder_owner

COLUMNS = ("run", "state", "iterations", "Dice", "job", "where")


def is_done(folder: Path, evaluation: Path | None) -> bool:
    """Whether a run needs nothing more.

    Args:
        folder: of the run.
        evaluation: folder of its evaluation, ``None`` for none.
    """
    return (folder / "model.pt").is_file() and (evaluation is None or (evaluation / "summary.json").is_file())


def job_of(folder: Path) -> str | None:
    """Number of the last job of a run."""
    file = folder / JOB
    return str(json.loads(file.read_text(encoding="utf-8"))["job"]) if file.is_file() else None


def status_table(runs: Iterable[tuple[Path, Path | None]]) -> str:
    """A line for each run, under a head.

    Args:
        runs: folders of runs and of their evaluations, see ``is_done``.

    Raises:
        OSError: when a run was submitted and SLURM's queue cannot be read.
    """
    folders = list(runs)
    asked = any(job_of(folder) for folder, _ in folders) and shutil.which("squeue")
    jobs = queued() if asked else {}
    lines = [COLUMNS, *(_line(folder, evaluation, jobs) for folder, evaluation in folders)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _line(folder: Path, evaluation: Path | None, jobs: Mapping[str, Queued]) -> tuple[str, ...]:
    number = job_of(folder)
    job = jobs.get(number or "")
    owner = folder_owner(folder)
    trained = (folder / "model.pt").is_file()
    where = ""
    if is_done(folder, evaluation):
        state = "done"
    elif job is not None and job.state == "RUNNING":
        state, where = "evaluating" if trained else "training", job.where
    elif job is not None:
        state, where = job.state.lower(), job.where
    elif owner is not None:
        state, where = "training", owner
    elif (folder / "log.txt").is_file():
        state, where = "trained" if trained else "stopped", _last_line(folder / "log.txt")
    else:
        state = "not begun"
    return folder.name, state, _iterations(folder), _dice(evaluation), number or "", where


def _iterations(folder: Path) -> str:
    """Those of the newest checkpoint, of how many."""
    reached = [int(file.stem.split("_")[1]) for file in folder.glob("checkpoints/checkpoint_*.pt")]
    config = folder / "config.json"
    total = json.loads(config.read_text(encoding="utf-8"))["iterations"] if config.is_file() else ""
    return f"{max(reached, default=0)} of {total}" if total != "" else ""


def _dice(evaluation: Path | None) -> str:
    if evaluation is None or not (evaluation / "summary.json").is_file():
        return ""
    score = json.loads((evaluation / "summary.json").read_text(encoding="utf-8"))["overall"]["dice"]
    return f"{score['mean']:.4f}" if score["n"] else "undefined"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split()
    text = " ".join(lines[-12:])
    return text if len(text) <= 100 else f"... {text[-96:]}"
