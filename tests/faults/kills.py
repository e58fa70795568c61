"""Kill -9 a training at random moments, resume it each time, and compare with a run that nobody killed.

Kills come in turns at a random moment of the start-up, at a random moment of the iterations, and in the moment that an
unfinished checkpoint appears, the last two while the final weights are written.
`python tests/faults/kills.py --kills 30 --seed 0`
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from tiny_runs import phantoms, report, run, start, training, wait

from simcvd_bundle.utils.atomic import UNFINISHED

MOMENTS = ("checkpoint", "iteration", "checkpoint", "iteration", "start")
CHECKPOINTS_A_KILL = 2
"""New checkpoints before a kill, at most (one at least before one of an iteration or a checkpoint)."""
START_SECONDS = 3.0


def checkpoints(folder: Path) -> list[Path]:
    found = (folder / "run" / "checkpoints").glob("checkpoint_*.pt")
    return sorted(found, key=lambda path: int(path.stem.split("_")[1]))


def unfinished(folder: Path, *places: str) -> set[str]:
    """Files that are being written in one of the places (``os.listdir``, as it takes milliseconds only)."""
    folders = [folder / place for place in places if (folder / place).is_dir()]
    return {name for path in folders for name in os.listdir(path) if name.startswith(UNFINISHED)}


def wait_for(moment: str, folder: Path, pid: int, chance: random.Random) -> bool:
    """Wait for the moment of the kill; False if the run ended before."""
    wanted = len_newest(folder) + chance.randint(1, CHECKPOINTS_A_KILL)
    end = time.monotonic() + chance.uniform(0, START_SECONDS)
    places = ("run/checkpoints",) if moment == "checkpoint" else ("run", "models")
    left = unfinished(folder, *places)  # by the kill before
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if moment == "start" and time.monotonic() > end:
            return True
        if moment == "iteration" and len_newest(folder) >= wanted:
            time.sleep(chance.uniform(0, 0.3))
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        if moment == "checkpoint" and len_newest(folder) >= wanted and unfinished(folder, *places) - left:
            return True
        if moment == "weights" and unfinished(folder, *places) - left:
            return True
        near = moment == "checkpoint" and len_newest(folder) >= wanted
        time.sleep(0 if near else 0.002)  # a checkpoint is written in milliseconds
    return False


def len_newest(folder: Path) -> int:
    files = checkpoints(folder)
    return int(files[-1].stem.split("_")[1]) if files else 0


def complete(folder: Path) -> bool:
    """Every file under its final name can be read."""
    for path in (*folder.rglob("checkpoint_*.pt"), *folder.rglob("model.pt")):
        if UNFINISHED not in path.name:
            torch.load(path, map_location="cpu", weights_only=True)
    return True


def main(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run the script; returns the counts."""
    chance = random.Random(seed)
    data, log = phantoms(folder / "data" / "phantoms"), folder / "log_whole.txt"
    settings = {"iterations": (CHECKPOINTS_A_KILL + 2) * kills + 4, "num_workers": 1}
    whole = folder / "whole"
    whole_pid = start(["train.json"], training(whole, data, **settings), log)
    killed, counts, resume = folder / "killed", Counter[str](), False
    for number in range(kills + 1):
        moment = "never" if number == kills else "weights" if number >= kills - 2 else MOMENTS[number % len(MOMENTS)]
        before, log = len_newest(killed), folder / f"log_{number}.txt"
        pid = start(["train.json"], training(killed, data, **settings, resume=resume), log)
        if moment == "never":
            assert wait(pid) == 0, log.read_text()[-3000:]
        else:
            assert wait_for(moment, killed, pid, chance), f"ended before kill {number}: {log.read_text()[-3000:]}"
            os.kill(pid, signal.SIGKILL)
            assert wait(pid) == -signal.SIGKILL
            counts[f"killed at moment: {moment}"] += 1
            print(f"kill {number} ({moment}): {before} checkpoints before, {len_newest(killed)} after", flush=True)
            counts["unfinished files left by a kill"] += bool(unfinished(killed, "run/checkpoints", "run", "models"))
        assert complete(killed)
        assert len_newest(killed) >= before, "a checkpoint was lost"
        assert "cannot be read" not in log.read_text()
        resumed_at = re.findall(r"Resumed from .* at iteration (\d+)\.", log.read_text())
        assert resumed_at in ([], [str(before)]), f"resumed at {resumed_at} and not at {before}"
        counts["starts that resumed from the newest checkpoint"] += len(resumed_at)
        counts["starts killed before they resumed"] += resume and not resumed_at
        if not checkpoints(killed) and not resume:
            counts["kills before the first checkpoint"] += 1
            code, text = run(["train.json"], training(killed, data, **settings, resume=True), log)
            assert code != 0, "resumed without a checkpoint"
            assert "No checkpoint to resume in" in text
        resume = bool(checkpoints(killed))
    starts = counts["starts that resumed from the newest checkpoint"] + counts["starts killed before they resumed"]
    assert starts == kills - counts["kills before the first checkpoint"]
    assert wait(whole_pid) == 0, (folder / "log_whole.txt").read_text()[-3000:]
    assert not list((killed / "run").rglob(f"{UNFINISHED}*")), "the run folder is not clean"
    ends = [torch.load(checkpoints(part)[-1], weights_only=True) for part in (whole, killed)]
    for name in ("model", "teacher", "projection_head", "teacher_head"):
        assert all(torch.equal(ends[0][name][key], ends[1][name][key]) for key in ends[0][name]), name
    assert (whole / "models" / "model.pt").read_bytes() == (killed / "models" / "model.pt").read_bytes()
    counts["final weights equal, bit for bit"] = 1
    return {"kills": kills, "seed": seed, "iterations": settings["iterations"], **counts}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report("kill -9", main(arguments.kills, arguments.seed, Path(temporary)))
