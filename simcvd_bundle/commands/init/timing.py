"""Iterations that fit into a number of hours, from a step measured on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow

from simcvd_bundle.data.scans import Item
from simcvd_bundle.utils.paths import BUNDLE_ROOT

WARM_UP, STEPS = 4, 8
"""Iterations that are not measured, as allocators and threads start, and those that are."""
EPOCH = 50
"""Iterations of an epoch (``epoch_length``), of which a training has a whole number."""
ENOUGH = 1000
"""Iterations below which a smaller patch is tried, at most ``HALVINGS`` times half of it: chosen, not measured."""
HALVINGS = 2
START_SECONDS = 20.0
"""Of a process with its imports."""
SPARE = 0.1
"""Part of the time that is left unplanned, for steps that are slower than those measured."""

Plan = tuple[dict[str, Any], dict[str, str]]
"""An overlay, and what is said of it."""


@dataclass(frozen=True)
class Seconds:
    """What was measured: a training step, preparing a case for training, segmenting a scan."""

    step: float
    preparing: float
    segmenting: float


@dataclass(frozen=True)
class Work:
    """How much there is to do: cases to prepare, to validate, and scans to segment at the end."""

    cases: int
    validated: int
    scans: int


def training_files(items: Sequence[Item]) -> list[str]:
    """Configs of a training of own data, before its overlay: copy-paste if a scan has no label, else labels alone.

    Args:
        items: training cases.
    """
    method = "copy_paste" if any(item.get("label") is None for item in items) else "supervised"
    return [str(BUNDLE_ROOT / "configs" / name) for name in ("train.json", f"method_{method}.json")]


def work_of(
    sections: Mapping[str, Sequence[Mapping[str, Any]]], root: Path, num_labeled: int | None
) -> tuple[list[Item], Work]:
    """Training cases with whole paths, and how much there is to do with the sections of a datalist."""
    labeled = [number for number, item in enumerate(sections["training"]) if "label" in item][:num_labeled]
    items = []
    for number, item in enumerate(sections["training"]):
        kept = {key: value for key, value in item.items() if key != "label" or number in labeled}
        items.append({key: _below(root, value) for key, value in kept.items()})
    return items, Work(len(items), len(sections["validation"]), len(items) - len(labeled))


def _below(root: Path, files: Any) -> Any:
    return [_below(root, file) for file in files] if isinstance(files, list) else str((root / files).resolve())


def fit_to_time(
    hours: float, planned: Callable[[int], Plan], max_voxels: int, items: Sequence[Item], work: Work
) -> Plan:
    """The overlay with the iterations that fit, and a smaller patch where too few do.

    Args:
        hours: from the start of the training to the last mask.
        planned: the overlay for a largest number of voxels of a patch, and the reasons.
        max_voxels: the first such number.
        items: training cases to measure with; a few are taken.
        work: what there is to do besides.

    Raises:
        ValueError: when no epoch of 50 iterations fits, even with the smallest patch tried.
    """
    print("measuring   a few training steps", flush=True)
    for halvings in range(HALVINGS + 1):
        overlay, reasons = planned(max_voxels // 2**halvings)
        seconds = measure(overlay, items)
        iterations = iterations_within(hours, seconds, work)
        if iterations >= ENOUGH:
            break
    if iterations < EPOCH:
        least = (other_seconds(seconds, work) + EPOCH * seconds.step) / (1 - SPARE) / 3600
        raise ValueError(
            f"--hours {hours:g} is too short: a training step takes {seconds.step:.3g} s here, and all else "
            f"{other_seconds(seconds, work) / 60:.2g} min. Give at least {1.1 * least:.2g}, or a coarser --spacing. "
            "Nothing was written."
        )
    end = datetime.now() + timedelta(hours=hours)
    reasons |= {
        "time": f"{hours:g} h: a training step takes {seconds.step:.3g} s here (mean of {STEPS}, after {WARM_UP} to "
        f"warm up); {other_seconds(seconds, work) / 60:.2g} min go to {work.cases} cases to prepare, validation and "
        f"{work.scans} masks, {100 * SPARE:.0f} % stay spare: {iterations} iterations, done by "
        f"{end:%H:%M on %d %B} if started now"
        + (f"; patches {halvings} times halved, for at least {ENOUGH}" if halvings else ""),
    }  # fmt: skip
    return overlay | {"iterations": iterations}, reasons


def other_seconds(seconds: Seconds, work: Work) -> float:
    """Seconds of all but the training steps.

    Student and teacher are validated up to six times, a panel is drawn as often (an inference with each), and the
    processes of training and inference start.
    """
    segmented = 2 * 6 * (work.validated + 1) + work.scans
    return 2 * START_SECONDS + work.cases * seconds.preparing + segmented * seconds.segmenting


def iterations_within(hours: float, seconds: Seconds, work: Work) -> int:
    """Iterations in whole epochs."""
    left = hours * 3600 * (1 - SPARE) - other_seconds(seconds, work)
    return max(0, int(left / seconds.step) // EPOCH * EPOCH)


def measure(overlay: Mapping[str, Any], items: Sequence[Item]) -> Seconds:
    """Train for a few iterations as the overlay says, with its network, patch, precision and loader.

    Args:
        overlay: ids of ``train.json``.
        items: training cases, of which two labelled and two unlabelled ones are taken.
    """
    labeled = [dict(item) for item in items if "label" in item][:2]
    chosen = labeled + [dict(item) for item in items if "label" not in item][:2]
    with TemporaryDirectory() as folder, _quiet():
        workflow = ConfigWorkflow(
            config_file=training_files(items), workflow_type="train", logging_file=False,
            **{
                **overlay, "bundle_root": str(BUNDLE_ROOT), "output_dir": folder, "ckpt_dir": folder,
                "cache_dir": str(Path(folder, "cache")), "iterations": WARM_UP + STEPS,
                "epoch_length": WARM_UP + STEPS, "train::dataset::data": chosen, "validate::dataset::data": [],
            },
        )  # fmt: skip
        workflow.initialize()
        get = workflow.parser.get_parsed_content
        start = time.monotonic()
        get("train::dataset")
        preparing = (time.monotonic() - start) / len(chosen)
        ends: list[float] = []
        trainer = get("train::trainer")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, _note, ends)
        workflow.run()
        network, device = get("network").eval(), torch.device(get("device"))
        start = time.monotonic()
        image = get("validate::preprocessing")({"image": chosen[-1]["image"]})["image"]
        with torch.no_grad():
            get("validate::inferer")(image[None].to(device), network).cpu()
        segmenting = time.monotonic() - start
        workflow.finalize()
    return Seconds((ends[-1] - ends[WARM_UP - 1]) / STEPS, preparing, segmenting)


def _note(engine: Engine, ends: list[float]) -> None:
    if torch.cuda.is_available():  # steps are queued there
        torch.cuda.synchronize()
    ends.append(time.monotonic())


@contextmanager
def _quiet() -> Iterator[None]:
    """No log below warnings: it would tell of a training that nobody asked for."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(before)
