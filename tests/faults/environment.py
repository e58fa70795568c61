"""Faults of the machine around a run: little shared memory, odd variables, names of folders that configs read as code.

Each ends in an error that names the remedy, or as if the fault were not there.
`python tests/faults/environment.py`
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from tiny_runs import INFERENCE_IDS, last_line, phantoms, report, run, start, training, wait

NAMES = ("with space", "a%b", "a@b", "a$b", "[1]", "(a)", "{a}", "a'b", 'a"b', "a\\b", "a,b", "a=b;c&d", "äöü 心",
         "%a", "@a", "$HOME", "~a", "2018_02", "True")  # fmt: skip
"""Names of folders, with what shells, Python and MONAI's configs read as something else."""


class Machine:
    """Fault by fault beside one undisturbed run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.number = folder, folder / "log.txt", 0
        self.data = phantoms(folder / "data" / "phantoms")
        self.reference = self.fresh()
        code, text = run(["train.json"], training(self.reference, self.data), self.log)
        assert code == 0, text[-3000:]

    def fresh(self) -> Path:
        self.number += 1
        return self.folder / str(self.number)

    def inference(self, folder: Path, **more: Any) -> dict[str, Any]:
        settings = training(folder, self.data / "images", weights=self.reference / "models" / "model.pt")
        return {name: settings[name] for name in (*INFERENCE_IDS, "dataset_dir", "output_dir", "weights")} | more

    def refused(self, name: str, outcome: tuple[int, str], words: str) -> None:
        code, text = outcome
        message = last_line(text)
        assert code != 0, f"{name}: exit code {code}"
        assert message.startswith("error: "), f"{name}: {message}"
        for word in words.split():
            assert word in message, f"{name}: {word!r} is not in: {message}"

    def as_ever(self, name: str, folder: Path, outcome: tuple[int, str]) -> None:
        assert outcome[0] == 0, f"{name}: {outcome[1][-3000:]}"
        weights = [(part / "models" / "model.pt").read_bytes() for part in (self.reference, folder)]
        assert weights[0] == weights[1], f"{name}: other weights"


def shared_memory(machine: Machine) -> int:
    """A worker finds no shared memory for its batch (a limit of the file size stands for it), nor room for sockets."""
    words = "cannot hand over their batches --shm-size --num_workers 0"
    settings = training(machine.fresh(), machine.data, patch_size=[64, 64, 64], num_workers=1)
    machine.refused("training", run(["train.json"], settings, machine.fresh(), 2**20), words)
    outcome = run(["inference.json"], machine.inference(machine.fresh(), num_workers=1), machine.fresh(), 2**16)
    machine.refused("inference", outcome, words)
    evaluation = training(
        machine.fresh(), machine.data, weights=machine.reference / "models" / "model.pt", num_workers=1
    )
    evaluation["eval_section"] = "validation"
    machine.refused("evaluation", run(["train.json", "evaluate.json"], evaluation, machine.fresh(), 2**16), words)
    long = machine.fresh() / ("long" * 30)
    long.mkdir(parents=True)
    settings = training(machine.fresh(), machine.data, num_workers=1)
    outcome = run(["train.json"], settings, machine.log, environment={"TMPDIR": str(long)})
    machine.refused("TMPDIR", outcome, f"cannot hand over their batches {long} TMPDIR --num_workers 0")
    return 4


def ended_workers(machine: Machine) -> int:
    """The system ends a worker: the run ends too, with the remedy and without other workers."""
    for number in (signal.SIGKILL, signal.SIGBUS):
        folder = machine.fresh()
        log = machine.fresh()
        pid = start(["train.json"], training(folder, machine.data, iterations=500, num_workers=2), log)
        while not list((folder / "run" / "checkpoints").glob("checkpoint_*.pt")):
            time.sleep(0.01)
        workers: list[psutil.Process] = []
        while len(workers) < 2:
            workers = psutil.Process(pid).children()
        workers[0].send_signal(number)
        machine.refused(number.name, (wait(pid, 120), log.read_text(encoding="utf-8")), "worker --num_workers 0")
        assert not psutil.wait_procs(workers, timeout=30)[1], f"{number.name}: workers are left"
    return 2


def launchers(machine: Machine) -> int:
    """Variables that a launcher or its shell left: a run in one process does not mind, its errors neither."""
    kinds = ({"RANK": "1"}, {"WORLD_SIZE": "4"}, {"RANK": "one", "WORLD_SIZE": ""},
             {"LOCAL_RANK": "3", "SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"})  # fmt: skip
    folder = machine.fresh()
    everything = {name: value for kind in kinds for name, value in kind.items()}
    machine.as_ever("variables", folder, run(["train.json"], training(folder, machine.data), machine.log,
                                             environment=everything))  # fmt: skip
    for kind in kinds:
        settings = training(machine.fresh(), machine.data, num_labeled=99)
        outcome = run(["train.json"], settings, machine.log, environment=kind)
        machine.refused(str(kind), outcome, "num_labeled is 99")
        assert "Error in sys.excepthook" not in outcome[1]
    return 1 + len(kinds)


def names(machine: Machine) -> int:
    """Folders of any name for data, output, weights and cache, in training, evaluation and inference."""
    for name in NAMES:
        folder = machine.fresh() / name
        shutil.copytree(machine.data, folder / "data")
        settings = training(folder, folder / "data", cache_dir=folder / "cache")
        machine.as_ever(name, folder, run(["train.json"], settings, machine.log))
        weights = folder / "models" / "model.pt"
        settings |= {"weights": weights, "eval_section": "validation", "output_dir": folder / "eval"}
        code, text = run(["train.json", "evaluate.json"], settings, machine.log)
        assert code == 0, f"{name}: {text[-3000:]}"
        assert (folder / "eval" / "summary.json").is_file(), name
        settings = machine.inference(folder, dataset_dir=folder / "data" / "images", weights=weights)
        code, text = run(["inference.json"], settings, machine.log)
        assert code == 0, f"{name}: {text[-3000:]}"
        assert len(list((folder / "run").glob("*_seg.nii.gz"))) == len(list(machine.data.glob("images/*"))), name
    for name, key in itertools.product(("a#b", "a::b"), ("dataset_dir", "output_dir", "ckpt_dir", "cache_dir")):
        folder = machine.fresh()
        outcome = run(["train.json"], {**training(folder, machine.data), key: folder / name}, machine.log)
        machine.refused(f"{key} {name}", outcome, f"{key} {folder}/a::b without # :: rename link")
        assert not folder.exists()
    return len(NAMES) + 8


FAULTS = (shared_memory, ended_workers, launchers, names)


def main(folder: Path, chosen: list[str]) -> dict[str, int]:
    """Run the faults of these names (all without names); returns how many were tried, all as they must be."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    machine = Machine(folder)
    return {fault.__name__: fault(machine) for fault in FAULTS if not chosen or fault.__name__ in chosen}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(fault.__name__ for fault in FAULTS) + "; all without names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report("faults of the environment, all ended as they must", main(Path(temporary), arguments.names))
