"""Memory over many short epochs, processes after Ctrl-C, and numbers at low precision over a long small run.

`python tests/faults/endurance.py --epochs 400 --iterations 400`
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from tiny_runs import phantoms, report, run, start, training, wait


def memory(folder: Path, data: Path, epochs: int) -> dict[str, Any]:
    """Resident memory of a training of many epochs, each with a new loader iterator, half with a validation.

    Resident rather than unshared memory: a fork's own copies of its parent's pages are no growth. The first quarter, in
    which caches fill, is left out; growth is the slope of a straight line through the rest.
    """
    log = folder / "log.txt"
    settings = training(folder, data, iterations=2 * epochs, epoch_length=2, val_interval=4, num_workers=1)
    pid = start(["train.json"], settings, log)
    process, samples, files = psutil.Process(pid), [], []
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        found = list((folder / "run" / "checkpoints").glob("checkpoint_*.pt"))
        if found:
            try:
                newest = max(int(path.stem.split("_")[1]) for path in found)
                resident, open_files = process.memory_info().rss / 2**20, process.num_fds()
                if resident:  # none: it has just ended
                    samples.append((newest / 2, resident))
                    files.append(open_files)
            except psutil.Error:
                break
        time.sleep(0.2)
    assert wait(pid) == 0, log.read_text()[-3000:]
    late = np.array([sample for sample in samples if sample[0] > epochs / 4])
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
    return {
        "epochs": epochs,
        "samples of memory": len(late),
        "MiB after a quarter (median of the next tenth)": round(float(np.median(late[: max(len(late) // 8, 1), 1])), 1),
        "MiB at the end (median of the last tenth)": round(float(np.median(late[-max(len(late) // 8, 1) :, 1])), 1),
        "growth, MiB in 1000 epochs": round(1000 * slope, 2),
        "open files after a quarter and at the end": f"{files[len(files) // 4]}, {files[-1]}",
    }


def interrupt(folder: Path, data: Path) -> dict[str, Any]:
    """Ctrl-C (SIGINT to the group, as a terminal sends it) ends the loader's workers too; the run can be resumed."""
    settings = training(folder, data, iterations=200, num_workers=2)
    pid = start(["train.json"], settings, folder / "log.txt")
    workers: list[psutil.Process] = []
    while not list((folder / "run" / "checkpoints").glob("checkpoint_*.pt")) or len(workers) < 2:
        workers = psutil.Process(pid).children(recursive=True)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGINT)
    code = wait(pid, 120)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert code != 0
    assert not alive, f"still running: {alive}"
    newest = max(int(path.stem.split("_")[1]) for path in (folder / "run" / "checkpoints").glob("checkpoint_*.pt"))
    code, text = run(["train.json"], {**settings, "iterations": newest + 1, "resume": True}, folder / "resumed.txt")
    assert code == 0, text[-3000:]
    return {"workers that Ctrl-C ended": len(workers), "workers left after Ctrl-C": len(alive)}


def precision(folder: Path, data: Path, name: str, iterations: int) -> dict[str, Any]:
    """A long small run at low precision; on CPU float16 has no loss scaling, the harder case."""
    settings = training(folder, data, iterations=iterations, epoch_length=50, precision=name)
    code, text = run(["train.json"], settings, folder / "log.txt")
    assert code == 0, text[-3000:]
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    return {f"finite iterations in {name}": iterations}


def main(folder: Path, names: Sequence[str], epochs: int, iterations: int) -> dict[str, Any]:
    """Run the parts of these names; returns the counts."""
    data = phantoms(folder / "data" / "phantoms")
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "bfloat16": lambda path: precision(path, data, "bfloat16", iterations),
        "float16": lambda path: precision(path, data, "float16", iterations),
        "interrupt": lambda path: interrupt(path, data),
        "memory": lambda path: memory(path, data, epochs),
    }
    counts: dict[str, Any] = {}
    for name in names or parts:
        (folder / name).mkdir()
        counts |= parts[name](folder / name)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="bfloat16, float16, interrupt, memory; all without names")
    parser.add_argument("--epochs", type=int, default=400, help="of the training whose memory is measured")
    parser.add_argument("--iterations", type=int, default=400, help="of the runs at low precision")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report("endurance", main(Path(temporary), arguments.names, arguments.epochs, arguments.iterations))
