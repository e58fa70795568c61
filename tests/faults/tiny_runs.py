"""Tiny trainings on phantoms in processes that can be killed, and what the fault scripts say about them."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai
import torch

from simcvd_bundle.data.phantoms import phantom_dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the scripts; pytest does so by itself
import processes
from processes import ROOT, last_line, wait

__all__ = ["INFERENCE_IDS", "digests", "last_line", "phantoms", "report", "run", "start", "training", "wait"]

TINY: dict[str, Any] = {
    "bundle_root": str(ROOT), "device": "cpu", "patch_size": [16, 16, 16], "window_stride": [8, 8, 8],
    "iterations": 4, "epoch_length": 1, "val_interval": 50, "checkpoint_interval": 1, "num_workers": 0,
    "log_interval": 1, "head_pool_size": 8, "network_def::base_channels": 2,
}  # fmt: skip
INFERENCE_IDS = ("bundle_root", "device", "patch_size", "window_stride", "num_workers", "network_def::base_channels")


def phantoms(folder: Path) -> Path:
    """Small phantoms."""
    return Path(phantom_dataset(str(folder), shape=(32, 32, 32), num_training=6))


def start(files: list[str], settings: Mapping[str, Any], log: Path) -> int:
    """Process id of ``python -m monai.bundle run`` with configs and ids to override."""
    return processes.start(processes.bundle_arguments(files, settings), log)


def run(
    files: list[str], settings: Mapping[str, Any], log: Path, file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:  # fmt: skip
    """Exit code and output of a run."""
    arguments = processes.bundle_arguments(files, settings)
    return processes.run(arguments, log, file_size=file_size, environment=environment)


def training(folder: Path, data: Path, **more: Any) -> dict[str, Any]:
    """Settings of a tiny training below ``folder``."""
    places = {"output_dir": folder / "run", "ckpt_dir": folder / "models", "cache_dir": data.parent / "cache"}
    return {**TINY, "dataset_dir": data, **places, **more}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a run must not damage, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.pt"))
    }


def report(title: str, rows: Mapping[str, Any]) -> None:
    """Print the counts of a script, with the machine in words."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = model[0].split(":")[1].strip() if model else platform.processor()
    print(
        f"\n{title}: {processor}, torch {torch.__version__}, MONAI {monai.__version__}, Python {sys.version.split()[0]}"
    )
    for name, value in rows.items():
        print(f"  {name}: {value}")
