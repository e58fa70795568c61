"""Faults of the disk and of resuming: each must end in a clear error or go on from a good checkpoint, nothing lost.

`python tests/faults/storage.py`
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_runs import digests, last_line, phantoms, report, run, start, training, wait

CHANGED: dict[str, Any] = {
    "seed": 1, "learning_rate": 0.02, "patch_size": [16, 16, 32], "num_labeled": 2, "sdm_weight": 0.2, "ema_decay": 0.9,
    "network_def::base_channels": 4, "labeled_batch_size": 1, "unlabeled_batch_size": 1, "epoch_length": 2,
    "precision": "bfloat16", "flip_prob": 0.1, "rampup_length": 9, "lr_step": 1, "temperature": 0.1,
    "train::inferer::sdm_scale": 0.5,
    "max_grad_norm": 1.0, "class_names": '{"1": "a", "2": "b"}', "head_pool_size": 16, "optimizer::momentum": 0.5,
}  # fmt: skip
"""Changes that a resumed run must refuse, naming the id."""
FREE: dict[str, Any] = {"num_workers": 1, "log_interval": 2, "val_interval": 1, "checkpoint_interval": 2}
"""Changes that do not matter to the weights."""


class Storage:
    """Fault by fault on copies of one short run; ``counts`` says how many of each kind ended as they must."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log.txt"
        self.data = phantoms(folder / "data" / "phantoms")
        self.number = 0
        self.reference = self.fresh("--")
        code, text = run(["train.json"], training(self.reference, self.data), self.log)
        assert code == 0, text[-3000:]

    def fresh(self, name: str) -> Path:
        self.number += 1
        return self.folder / f"{self.number}_{name}"

    def begun(self, name: str) -> Path:
        """A folder with a run that was killed after checkpoint 3 of 4."""
        folder = self.fresh(name)
        pid = start(["train.json"], training(folder, self.data, log_interval=1), self.log)
        while not (folder / "run" / "checkpoints" / "checkpoint_3.pt").exists():
            assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None, self.log.read_text(
                encoding="utf-8"
            )[-3000:]
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        wait(pid)
        for late in folder.glob("run/checkpoints/checkpoint_4.pt"):
            late.unlink()
        return folder

    def refused(self, name: str, folder: Path, wanted: str, file_size: int | None = None, **settings: Any) -> None:
        """The run ends with an error that holds all words of ``wanted``, and no good file changes."""
        before = digests(folder) if folder.is_dir() else {}
        log = self.fresh("log")  # a new one, as the limit holds for it too
        code, text = run(["train.json"], {**training(folder, self.data), **settings}, log, file_size)
        message = last_line(text)
        assert code != 0, f"{name}: exit code {code}"
        assert message.startswith("error: "), f"{name}: {message}"
        for word in wanted.split():
            assert word in message, f"{name}: {word!r} is not in: {message}"
        after = digests(folder) if folder.is_dir() else {}
        assert before.items() <= after.items(), f"{name}: a file was changed"

    def continues(self, name: str, folder: Path, **settings: Any) -> str:
        """The run resumes, and ends with the weights of the undisturbed one."""
        code, text = run(["train.json"], training(folder, self.data, resume=True, **settings), self.log)
        assert code == 0, f"{name}: {text[-3000:]}"
        assert "Resumed from" in text, name
        weights = [(part / "models" / "model.pt").read_bytes() for part in (self.reference, folder)]
        assert weights[0] == weights[1], f"{name}: other weights"
        return text


def full_disk(storage: Storage) -> int:
    """No file may be larger than 60 % of a checkpoint: the first one cannot be written, nor one of a resumed run."""
    folder = storage.begun("full")
    newest = folder / "run" / "checkpoints" / "checkpoint_3.pt"
    limit = int(0.6 * newest.stat().st_size)
    storage.refused("full disk", storage.fresh("full"), "checkpoint_1.pt cannot be written", limit)
    storage.refused(
        "full disk, resumed", folder, f"checkpoint_4.pt cannot be written {newest} resume", limit, resume=True
    )
    storage.continues("after the full disk", folder)
    cache = storage.fresh("cache") / "cache"
    storage.refused(
        "full cache", storage.fresh("full"), f"{cache} cannot be written --cache_dir", 60_000, cache_dir=cache
    )
    return 4


def not_writable(storage: Storage) -> int:
    """A folder below a file, and one that the system refuses to make."""
    file = storage.folder / "file"
    file.write_text("no folder")
    for bad in (file / "run", Path("/proc/simcvd_run")):
        for name in ("output_dir", "ckpt_dir", "cache_dir"):
            storage.refused(f"{name} {bad}", storage.fresh("unwritable"), f"{name} {bad}", **{name: bad})
    return 6


def damaged(storage: Storage) -> int:
    """Damaged checkpoints: the one before, or an error if there is none."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 64] = bytes(64)
        path.write_bytes(content)

    damages: dict[str, Callable[[Path], Any]] = {
        "truncated": cut,
        "empty": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_text("not a checkpoint"),
        "pickled module": lambda path: torch.save(torch.nn.Linear(1, 1), path),
    }
    for name, damage in damages.items():
        folder = storage.begun(name)
        damage(folder / "run" / "checkpoints" / "checkpoint_3.pt")
        assert "checkpoint_3.pt cannot be read" in storage.continues(name, folder)
    for name, damage in damages.items():
        folder = storage.begun(name)
        files = list((folder / "run" / "checkpoints").glob("*.pt"))  # three, if killed before the oldest was removed
        for path in files:
            damage(path)
        wanted = f"None of the {len(files)} checkpoints can be read leave resume out"
        storage.refused(f"all {name}", folder, wanted, resume=True)
    contents: dict[str, Any] = {"a list": [torch.ones(1)], "weights only": {"weight": torch.ones(2)}}
    for name, content in contents.items():
        folder = storage.begun(name)
        torch.save(content, folder / "run" / "checkpoints" / "checkpoint_3.pt")
        storage.refused(name, folder, "checkpoint_3.pt does not fit this configuration", resume=True)
    return 2 * len(damages) + len(contents)


def changed(storage: Storage) -> int:
    """Resuming with another configuration, another network's checkpoint, other cases, or nothing to resume."""
    folder = storage.begun("changed")
    for name, value in CHANGED.items():
        word = name.removesuffix("_length") if name == "epoch_length" else name
        storage.refused(name, folder, f"checkpoint_3.pt {word} was now", resume=True, **{name: value})
    other = phantoms(storage.folder / "data" / "other")
    (other / "images" / "training_00.nii.gz").rename(other / "images" / "renamed.nii.gz")
    text = (other / "dataset.json").read_text().replace("images/training_00", "images/renamed")
    (other / "dataset.json").write_text(text)
    storage.refused("other cases", folder, "training cases was 6 now", resume=True, dataset_dir=other)
    storage.refused("nothing to resume", storage.fresh("new"), "No checkpoint to resume in", resume=True)
    storage.continues("after all refusals", folder, **FREE)
    return len(CHANGED) + 2


def second_process(storage: Storage) -> int:
    """A second process in the same folder is refused and disturbs nothing; after a kill the folder is free at once."""
    folder = storage.fresh("two")
    settings = training(folder, storage.data, num_workers=1)
    first = start(["train.json"], settings, storage.log)
    while not (folder / "run" / ".lock").exists() or not (folder / "run" / ".lock").read_text():
        time.sleep(0.001)
    os.killpg(first, signal.SIGSTOP)  # so that it is still training when the others come
    for resume in (False, True):
        storage.refused("second process", folder, f"process {first} is training in --output_dir", resume=resume)
    os.killpg(first, signal.SIGCONT)
    assert wait(first) == 0
    assert (folder / "models" / "model.pt").read_bytes() == (storage.reference / "models" / "model.pt").read_bytes()
    assert not (folder / "run" / "previous_1").exists()
    return 2


FAULTS = (full_disk, not_writable, damaged, changed, second_process)


def main(folder: Path, names: list[str]) -> dict[str, int]:
    """Run the faults of these names (all without names); returns how many were tried, all as they must be."""
    storage = Storage(folder)
    return {fault.__name__: fault(storage) for fault in FAULTS if not names or fault.__name__ in names}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(fault.__name__ for fault in FAULTS) + "; all without names")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report("storage faults, all ended as they must", main(Path(temporary), arguments.names))
