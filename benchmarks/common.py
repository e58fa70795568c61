"""What the benchmarks share: the machine in words, peak memory, fresh processes, tables."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import monai
import psutil
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30
sys.path.insert(0, str(ROOT))  # the bundle, if it is not installed


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def hardware() -> str:
    """Processor or GPU, threads and versions."""
    from simcvd_bundle.utils.devices import processor

    name = f"{torch.cuda.get_device_name()}, {processor()}" if torch.cuda.is_available() else processor()
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, MONAI {monai.__version__}, "
        f"Python {platform.python_version()}"
    )


def peak_memory(workers: float = 0.0) -> float:
    """Peak memory in GiB: of the GPU, or else of this process, plus what its ``workers`` hold for themselves."""
    from simcvd_bundle.utils import memory

    if torch.cuda.is_available():
        return (memory.peak_memory(torch.device("cuda")) or 0) / GIB
    return (memory.peak_memory(torch.device("cpu")) or 0) / GIB + workers


def workers_memory() -> float:
    """GiB that the child processes hold beyond what they share with this one."""
    return sum(child.memory_full_info().uss for child in psutil.Process().children(recursive=True)) / GIB


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function`` in a process of its own, whose memory starts from nothing."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def report(title: str, rows: Mapping[str, str], figures: Mapping[str, Any], file: str | None) -> None:
    """Print a table, and write ``figures`` with the machine and the command to a JSON file."""
    width = max(map(len, rows))
    print(f"\n{title}\n{hardware()}\n")
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    if file:
        content = {**figures, "hardware": hardware(), "command": " ".join(sys.argv)}
        Path(file).write_text(json.dumps(content, indent=1), encoding="utf-8")


def parser(description: str | None) -> argparse.ArgumentParser:
    """Arguments of all benchmarks."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--config_file", nargs="*", default=[], help="overlays after configs/train.json")
    result.add_argument("--dataset_dir", help="a prepared dataset; phantoms are made without it")
    result.add_argument("--cache_dir", help="folder of the cached cases; made anew and removed without it")
    result.add_argument("--precision", default="bfloat16")
    result.add_argument("--json", metavar="FILE", help="write the figures here")
    return result


def parser_of_cases(description: str | None) -> argparse.ArgumentParser:
    """Arguments of the benchmarks that segment cases of a datalist."""
    result = parser(description)
    result.add_argument("--section", default="labeled", help="section of the datalist (labeled, unlabeled, test)")
    result.add_argument("--cases", type=int, default=16, help="cases that are segmented")
    return result


def training_config(overlays: Sequence[str]) -> ConfigParser:
    """``configs/train.json`` with overlays."""
    config = ConfigParser()
    config.read_config([str(ROOT / "configs" / "train.json"), *overlays])
    config["bundle_root"] = str(ROOT)
    return config
