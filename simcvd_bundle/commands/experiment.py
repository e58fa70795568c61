"""A list of trainings and their evaluations, one folder each, that can be interrupted anywhere."""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch
from fire.decorators import SetParseFns
from monai.bundle import ConfigParser

from simcvd_bundle.commands.arguments import parse_list, parse_numbers
from simcvd_bundle.data.datalists import write_folds
from simcvd_bundle.runs.provenance import provenance
from simcvd_bundle.utils.atomic import write_json
from simcvd_bundle.utils.paths import BUNDLE_ROOT

logger = logging.getLogger(__name__)

RECORD, CONFIG, LOG = "record.json", "config.json", "log.txt"


class Run(NamedTuple):
    """One training: its name is its folder, ``files`` are its configs in order, ``overrides`` come last."""

    name: str
    files: list[str]
    overrides: dict[str, Any]


def experiment(
    dataset_dir: str,
    data: str,
    experiments: Sequence[str] = ("simcvd", "method_supervised", "method_mean_teacher"),
    num_labeled: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    folds: int = 0,
    output_dir: str = "runs",
    eval_section: str = "test",
    inference_mode: str = "window",
    **overrides: Any,
) -> None:
    """Train and evaluate every experiment with every number of labelled cases and every seed.

    Each run has the folder OUTPUT_DIR/EXPERIMENT_NUMBER_seedSEED with checkpoints, TensorBoard logs of every iteration,
    the final model.pt, its merged configuration config.json, log.txt, eval_SECTION_MODE/ and record.json (settings, and
    of every start: version, commit, hardware, packages). Started again, finished runs are kept, an interrupted one
    continues from its last checkpoint, and one that failed is tried again. One run at a time, or one a GPU. Lists are
    given as "[a,b]".

    Args:
        dataset_dir: folder of the data.
        data: data overlay, such as data_la, or the path of your own.
        experiments: overlays as names of configs/ or paths, simcvd for none, several joined by +.
        num_labeled: numbers of labelled cases; by default that of the data overlay.
        seeds: seeds.
        folds: split the labelled cases into so many folds, train without one at a time and evaluate on that one
            (eval_section is then validation); 0 trains with all of them.
        output_dir: folder of the runs.
        eval_section: section that is evaluated at the end, none for none.
        inference_mode: window or fast, for that evaluation.
        **overrides: further config ids, such as iterations and precision.

    Raises:
        FileNotFoundError: for an unknown overlay or missing data.
        ValueError: when settings do not fit, before anything runs, and at the end when runs have failed.
    """
    target = Path(output_dir).resolve()
    common = {"dataset_dir": str(Path(dataset_dir).resolve()), **overrides}
    runs = plan(experiments, data, num_labeled, seeds, common)
    if folds:
        runs = [fold for run in runs for fold in split(run, folds, target)]
        eval_section = "validation"
    devices: SimpleQueue[int] = SimpleQueue()
    number_of_devices = max(1, torch.cuda.device_count())
    for device in range(number_of_devices):
        devices.put(device)

    def one(run: Run) -> bool:
        device = devices.get()
        try:
            return execute(run, target, eval_section, inference_mode, device)
        finally:
            devices.put(device)

    with ThreadPoolExecutor(number_of_devices) as threads:
        succeeded = list(threads.map(one, runs))
    failed = [run.name for run, good in zip(runs, succeeded, strict=True) if not good]
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}. See {LOG} in their folders.")


SetParseFns(
    dataset_dir=str, data=str, experiments=parse_list, num_labeled=parse_numbers, seeds=parse_numbers, output_dir=str
)(experiment)


def plan(
    experiments: Sequence[str],
    data: str,
    num_labeled: Sequence[int] | None,
    seeds: Sequence[int],
    overrides: Mapping[str, Any],
) -> list[Run]:
    """Runs in order: all experiments with the first seed and number of labelled cases, then the next number."""
    runs = []
    numbers: Sequence[int | None] = num_labeled or [None]
    for seed, number, name in itertools.product(seeds, numbers, experiments):
        overlays = [_overlay(part) for part in (data, *name.split("+")) if part != "simcvd"]
        parts = [Path(part).stem.removeprefix("method_").removeprefix("ablation_") for part in name.split("+")]
        chosen = {} if number is None else {"num_labeled": number}
        runs.append(
            Run(
                "_".join(["+".join(parts), *map(str, chosen.values()), f"seed{seed}"]),
                [str(file) for file in (BUNDLE_ROOT / "configs" / "train.json", *overlays)],
                {**overrides, **chosen, "seed": seed, "log_interval": 1},
            )
        )
    return runs


def _overlay(name: str) -> Path:
    for file in (BUNDLE_ROOT / "configs" / f"{name}.json", Path(name)):
        if file.is_file():
            return file.resolve()
    known = sorted(
        file.stem for kind in ("data", "method", "ablation") for file in BUNDLE_ROOT.glob(f"configs/{kind}_*.json")
    )
    raise FileNotFoundError(f"No overlay {name}: give the path of a file or one of simcvd, {', '.join(known)}.")


def split(run: Run, folds: int, output_dir: Path) -> list[Run]:
    """One run for each fold of the labelled cases; their datalists are written to ``output_dir``."""
    settings = _merged(run)
    files = write_folds(
        settings["dataset_dir"], folds, output_dir / "folds", settings["datalist"], settings["num_labeled"]
    )
    runs = []
    for number, file in enumerate(files):
        labeled = sum("label" in item for item in json.loads(file.read_text(encoding="utf-8"))["training"])
        overrides = {**run.overrides, "datalist": str(file), "num_labeled": labeled}
        runs.append(Run(f"{run.name}_fold{number}", run.files, overrides))
    return runs


def execute(run: Run, output_dir: Path, eval_section: str, inference_mode: str, device: int) -> bool:
    """Train and evaluate one run as far as that has not been done; returns whether all of it is done."""
    folder = output_dir / run.name
    common = {**run.overrides, "bundle_root": str(BUNDLE_ROOT), "ckpt_dir": str(folder / "models")}
    settings: dict[str, Any] = {"files": [Path(file).name for file in run.files], **run.overrides}
    record: dict[str, Any] = {"run": settings, "starts": []}
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    changed = [key for key in {**settings, **record["run"]} if settings.get(key) != record["run"].get(key)]
    if changed:
        logger.error("%s: made with another %s. Choose another output_dir.", folder, ", ".join(changed))
        return False
    if not (folder / "model.pt").is_file():
        resume = any(folder.glob("checkpoints/checkpoint_*.pt"))
        record["starts"].append(provenance())
        write_json(folder / RECORD, record)
        write_json(folder / CONFIG, _merged(run))
        logger.info("%s: training%s", run.name, ", continued" if resume else "")
        if not _bundle("training", run.files, {**common, "output_dir": folder, "resume": resume}, folder, device):
            return False
    if eval_section == "none":
        return True
    target = folder / f"eval_{eval_section}_{inference_mode}"
    if not (target / "summary.json").is_file():
        logger.info("%s: evaluating", run.name)
        evaluation = {"output_dir": target, "weights": folder / "model.pt", "eval_section": eval_section}
        files = [*run.files, str(BUNDLE_ROOT / "configs" / "evaluate.json")]
        arguments = {**common, **evaluation, "inference_mode": inference_mode}
        if not _bundle("evaluating", files, arguments, folder, device):
            return False
    score = json.loads((target / "summary.json").read_text(encoding="utf-8"))["overall"]["dice"]
    dice = "undefined, as all masks are empty" if score["n"] == 0 else f"{score['mean']:.4f} +- {score['std']:.4f}"
    logger.info("%s: Dice %s (%s, %s)", run.name, dice, eval_section, inference_mode)
    return True


def _merged(run: Run) -> dict[str, Any]:
    parser = ConfigParser()
    parser.read_config(run.files)
    for name, value in run.overrides.items():
        parser[name] = value
    content: dict[str, Any] = parser.get()
    return content


def _bundle(run_id: str, files: Sequence[str], settings: Mapping[str, Any], folder: Path, device: int) -> bool:
    """Run the bundle in a process of its own, its output appended to the log of the run."""
    arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BUNDLE_ROOT), os.environ.get("PYTHONPATH", "")])}
    if torch.cuda.device_count() > 1:
        environment["CUDA_VISIBLE_DEVICES"] = str(device)
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(list(files)), *arguments]
    with (folder / LOG).open("a", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode != 0:
        last = (folder / LOG).read_text(encoding="utf-8").strip().splitlines()[-1:]
        logger.error("%s: %s failed (%s). All of it: %s", folder.name, run_id, " ".join(last), folder / LOG)
    return done.returncode == 0
