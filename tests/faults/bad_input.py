"""Bad input of every kind: each must end in a message that names the file or the id and what to do, before training.

Each kind is a small change of a good data set or of the command, run as its own process, which must end with another
exit code than 0, with no checkpoint written, and with an error that holds the given words.

`python tests/faults/bad_input.py` for all, `--every 5` for a part.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from kinds import FILES, IMAGE, KINDS, Kind
from tiny_runs import INFERENCE_IDS, last_line, phantoms, report, run, training


def expect_error(kind: Kind, folder: Path, good: Path, weights: Path) -> None:
    """Run one kind on a copy of the good data.

    Raises:
        AssertionError: when it does not end as it must.
    """
    data = folder / "data" / "set"
    shutil.copytree(good, data, symlinks=True)
    kind.change(data)
    settings = training(folder, data, cache_dir=folder / "cache", iterations=2)
    if kind.files == ["inference.json"]:
        settings = {name: settings[name] for name in (*INFERENCE_IDS, "output_dir")}
    named = {"GOOD": str(weights), "DATA/none": f"{data}/none", "DATA/twins": f"{data}/twins"}
    settings |= {name: named.get(str(bad), bad) for name, bad in kind.settings.items()}
    code, output = run(kind.files, settings, folder / "log.txt")
    message = last_line(output)
    assert code != 0, f"{kind.name}: exit code {code}"
    assert message.startswith("error: "), f"{kind.name}: no error at the end: {message}"
    for word in kind.words.replace("GOOD", str(weights)).split():
        assert word in message, f"{kind.name}: {word!r} is not in {message!r}"
    assert not list(folder.rglob("checkpoint_*.pt")), f"{kind.name}: training started"


def batch(folder: Path, good: Path, weights: Path) -> dict[str, int]:
    """Batch inference over good scans and bad ones: the good ones are written, the bad ones listed at the end."""
    kinds = [kind for kind in FILES[:20] if kind.name not in ("time series",)]
    scans = folder / "scans"
    scans.mkdir(parents=True)
    for number, kind in enumerate(kinds):
        data = folder / "data" / str(number)
        shutil.copytree(good, data)
        kind.change(data)
        shutil.copy(data / IMAGE, scans / f"bad_{number:02d}.nii.gz")
        shutil.copy(good / IMAGE, scans / f"good_{number:02d}.nii.gz")
    settings = training(folder, scans)
    settings = {name: settings[name] for name in (*INFERENCE_IDS, "output_dir", "dataset_dir")}
    code, output = run(["inference.json"], {**settings, "weights": weights, "num_workers": 1}, folder / "log.txt")
    message = last_line(output)
    assert code != 0
    assert f"{len(kinds)} cases failed, all others are written" in message, output[-3000:]
    for number in range(len(kinds)):
        assert f"{scans}/bad_{number:02d}.nii.gz: " in message, f"bad_{number:02d} is not listed"
    written = sorted(path.name for path in (folder / "run").glob("*.nii.gz"))
    assert written == [f"good_{number:02d}_seg.nii.gz" for number in range(len(kinds))], written
    return {"bad scans in a batch, all listed at the end": len(kinds), "good scans of it, all written": len(written)}


def main(folder: Path, every: int, names: Sequence[str] = ()) -> tuple[dict[str, int], list[str]]:
    """Run every n-th kind, or those of ``names``, and the batch; returns the counts and what did not end as it must."""
    good = phantoms(folder / "good" / "phantoms")
    code, output = run(["train.json"], training(folder / "trained", good, iterations=1), folder / "log.txt")
    assert code == 0, output[-3000:]
    weights = folder / "trained" / "models" / "model.pt"
    torch.load(weights, weights_only=True)
    problems = []
    chosen = [kind for kind in KINDS if kind.name in names] if names else KINDS[::every]
    for number, kind in enumerate(chosen):
        try:
            expect_error(kind, folder / f"kind_{number}", good, weights)
        except AssertionError as error:
            problems.append(str(error))
            print(f"PROBLEM {error}", flush=True)
        shutil.rmtree(folder / f"kind_{number}")
    counts = {"kinds": len(chosen), "refused with file or id and remedy": len(chosen) - len(problems)}
    return counts | batch(folder / "batch", good, weights), problems


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("names", nargs="*", help="kinds by name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found, wrong = main(Path(temporary), arguments.every, arguments.names)
    report("bad input", found)
    raise SystemExit(bool(wrong))
