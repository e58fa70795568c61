"""The bundle in processes that can be killed: settings of a tiny training, starting, waiting, comparing files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import runpy
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import monai.bundle  # loaded once: every run is a fork of this process
import torch
from monai.utils import optional_import

from simcvd_bundle.data.phantoms import phantom_dataset

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
optional_import("ignite.engine")
torch.set_num_threads(1)  # a fork does not inherit a pool of threads

TINY: dict[str, Any] = {
    "bundle_root": str(ROOT), "device": "cpu", "patch_size": [16, 16, 16], "window_stride": [8, 8, 8],
    "iterations": 4, "epoch_length": 1, "val_interval": 50, "checkpoint_interval": 1, "num_workers": 0,
    "log_interval": 1, "head_pool_size": 8, "network_def::base_channels": 2,
}  # fmt: skip
INFERENCE_IDS = ("bundle_root", "device", "patch_size", "window_stride", "num_workers", "network_def::base_channels")


def phantoms(folder: Path) -> Path:
    """Small phantoms."""
    return Path(phantom_dataset(str(folder), shape=(32, 32, 32), num_training=6))


def start(files: list[str], settings: Mapping[str, Any], log: Path, file_size: int | None = None) -> int:
    """``python -m monai.bundle run`` in a forked process of its own group.

    Args:
        files: configs, relative to the bundle's or absolute.
        settings: ids to override.
        log: file that its output is appended to.
        file_size: bytes that a file may have at most, as on a full disk.

    Returns:
        Process id.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        sys.argv = ["monai.bundle", "run", "--config_file", json.dumps([str(CONFIGS / file) for file in files])]
        sys.argv += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float = 3600) -> int:
    """Exit code of a process; negative is the signal that ended it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} did not end in {seconds} s")


def run(files: list[str], settings: Mapping[str, Any], log: Path, file_size: int | None = None) -> tuple[int, str]:
    """Exit code and output of a run."""
    before = log.stat().st_size if log.exists() else 0
    code = wait(start(files, settings, log, file_size))
    return code, log.read_bytes()[before:].decode(errors="replace")


def last_line(text: str) -> str:
    """The ``error: ...`` at the end of a run's output, with the lines after it."""
    return text[text.rindex("\nerror: ") + 1 :].strip() if "\nerror: " in text else text.strip()[-300:]


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
