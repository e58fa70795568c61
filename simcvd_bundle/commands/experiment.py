"""A list of trainings and their evaluations, one folder each, that can be interrupted anywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import signal
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

from simcvd_bundle.commands.arguments import argument, parse_list, parse_numbers
from simcvd_bundle.commands.jobs import Job, Resources, Stopped, queued, require_slurm, submit, wait
from simcvd_bundle.commands.status import is_done, job_of, status_table
from simcvd_bundle.data.folds import write_folds
from simcvd_bundle.runs.methods import check_method
from simcvd_bundle.runs.provenance import provenance
from simcvd_bundle.utils.atomic import write_json
from simcvd_bundle.utils.errors import root_cause
from simcvd_bundle.utils.paths import BUNDLE_ROOT

logger = logging.getLogger(__name__)

STOPS = {getattr(signal, name) for name in ("SIGTERM", "SIGUSR2") if hasattr(signal, name)}
"""Signals by which a scheduler ends what runs in a job."""
RECORD, CONFIG, LOG = "record.json", "config.json", "log.txt"
EVALUATE = str(BUNDLE_ROOT / "configs" / "evaluate.json")
RUN_IDS = {"train": "training", "pretrain": "pretraining"}
"""Configs that can be run, and what runs their training."""
METHOD = {"train": "simcvd", "pretrain": "pretrain"}
"""What they are called without overlay."""


class Run(NamedTuple):
    """One training.

    Attributes:
        name: its folder.
        files: its configs in order.
        overrides: ids that come last, values as JSON holds them.
        fold: of a cross-validation the ``number`` of the fold, how many there are (``of``) and, as each trains with
            fewer, ``num_labeled`` of the whole.
    """

    name: str
    files: list[str]
    overrides: dict[str, Any]
    fold: dict[str, int] | None = None


def experiment(
    dataset_dir: str,
    data: str,
    experiments: Sequence[str] | None = None,
    num_labeled: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    folds: int = 0,
    output_dir: str = "runs",
    eval_section: str = "test",
    inference_mode: str = "window",
    config: str = "train",
    executor: str = "local",
    partition: str | None = None,
    account: str | None = None,
    hours: float | None = None,
    gpus: int | None = None,
    cpus: int | None = None,
    memory_gb: float | None = None,
    sbatch: Mapping[str, Any] | None = None,
    status: bool = False,
    **overrides: Any,
) -> None:
    """Train and evaluate every experiment with every number of labelled cases and every seed.

    Each run has the folder OUTPUT_DIR/EXPERIMENT_NUMBER_seedSEED with checkpoints, TensorBoard logs of every iteration,
    the final model.pt, its merged configuration config.json, log.txt, eval_SECTION_MODE/ (scores and masks) and
    record.json (settings, and of every start: version, commit, hardware, packages). Started again, finished runs are
    kept, an interrupted one continues from its last checkpoint, and one that failed is tried again. One run at a time,
    or one a GPU (of CUDA_VISIBLE_DEVICES, if set); or one a job of a SLURM cluster (docs/scaling.md). Lists are given
    as "[a,b]". `report OUTPUT_DIR` compares the runs.

    Args:
        dataset_dir: folder of the data.
        data: data overlay, such as data_la, or the path of your own.
        experiments: overlays as names of configs/ or paths, simcvd for none, several joined by +; all for SimCVD and
            every method overlay of configs/ that needs no trained network. By default
            [simcvd,method_supervised,method_mean_teacher], or no overlay where config is pretrain.
        num_labeled: numbers of labelled cases; by default that of the data overlay.
        seeds: seeds.
        folds: split the labelled cases into so many folds, train without one at a time and evaluate on that one
            (eval_section is then validation); 0 trains with all of them.
        output_dir: folder of the runs.
        eval_section: section that is evaluated at the end, none for none.
        inference_mode: window or fast, for that evaluation.
        config: train, or pretrain, whose runs are not evaluated.
        executor: local, or slurm: each run is a job, which is put back into the queue when it is preempted, loses its
            node or runs out of time. This command waits for them; Ctrl-C leaves them running.
        partition: of the jobs of slurm; like those that follow, by default that of the cluster.
        account: who they are charged to.
        hours: time limit of one job, 24 by default.
        gpus: GPUs of a job, 1 by default, 0 for none.
        cpus: processors of a job, 8 by default.
        memory_gb: main memory of a job.
        sbatch: further options of sbatch, such as "{'qos':'low'}".
        status: only print how far the runs are.
        **overrides: further config ids, such as iterations and precision.

    Raises:
        FileNotFoundError: for an unknown overlay or missing data.
        ValueError: when settings do not fit or nothing would be evaluated, before anything runs, and at the end when
            runs have failed.
        SystemExit: after Ctrl-C while jobs run.
    """
    resources = Resources(partition, account, hours, gpus, cpus, memory_gb, sbatch)
    if executor not in ("local", "slurm"):
        raise ValueError(f"executor must be local or slurm, got {executor!r}.")
    if executor == "local" and any(value is not None for value in resources):
        given = [name for name, value in resources._asdict().items() if value is not None]
        raise ValueError(f"{', '.join(given)} are for jobs: add --executor slurm, or leave them out.")
    target = Path(output_dir).resolve()
    common = {"dataset_dir": str(Path(dataset_dir).resolve()), **overrides}
    if config not in RUN_IDS:
        raise ValueError(f"config is {config!r}, but must be one of {', '.join(RUN_IDS)}.")
    if config == "pretrain":
        eval_section = "none"
    methods = {"train": ("simcvd", "method_supervised", "method_mean_teacher"), "pretrain": ("simcvd",)}
    runs = plan(experiments or methods[config], data, num_labeled, seeds, common, config)
    if folds and config != "train":
        raise ValueError(f"folds are of labelled cases, and {config} has none: leave folds out.")
    if folds:
        runs = [fold for run in runs for fold in split(run, folds, target)]
        eval_section = "validation"
    folders = [(target / run.name, evaluation_folder(target / run.name, eval_section, inference_mode)) for run in runs]
    if status:
        print(status_table(folders))
        return
    if eval_section != "none":
        for run in runs:
            check_evaluation(run, eval_section, inference_mode)
    tasks = [Job(run.name, execute, run, target, eval_section, inference_mode) for run in runs]
    if executor == "slurm":
        run_as_jobs(tasks, folders, resources)
        succeeded = [is_done(*folder) for folder in folders]
    else:
        succeeded = run_here(tasks)
    failed = [run.name for run, good in zip(runs, succeeded, strict=True) if not good]
    if failed:
        raise ValueError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}. See {LOG} in their folders.")


SetParseFns(
    dataset_dir=str, data=str, experiments=parse_list, num_labeled=parse_numbers, seeds=parse_numbers, output_dir=str,
    eval_section=str, inference_mode=str, config=str, executor=str, partition=str, account=str,
    **dict.fromkeys(("cache_dir", "datalist", "pretrained"), str),
)(experiment)  # fmt: skip


def plan(
    experiments: Sequence[str],
    data: str,
    num_labeled: Sequence[int] | None,
    seeds: Sequence[int],
    overrides: Mapping[str, Any],
    config: str = "train",
) -> list[Run]:
    """Runs in order: all experiments with the first seed and number of labelled cases, then the next number.

    Raises:
        FileNotFoundError: for an unknown overlay.
        ValueError: when an overlay cannot be read, methods exclude each other, two runs would share a folder, or a
            value is none that JSON can hold.
    """
    if list(experiments) == ["all"]:
        experiments = all_methods()
    runs: dict[str, Run] = {}
    numbers: Sequence[int | None] = num_labeled or [None]
    for seed, number, name in itertools.product(seeds, numbers, experiments):
        overlays = [_overlay(part) for part in (data, *name.split("+")) if part != "simcvd"]
        chosen = {} if number is None else {"num_labeled": number}
        run = Run(
            "_".join([method_name(overlays[1:], METHOD[config]), *map(str, chosen.values()), f"seed{seed}"]),
            [str(file) for file in (BUNDLE_ROOT / "configs" / f"{config}.json", *overlays)],
            {name: as_json(name, value) for name, value in {**overrides, **chosen, "seed": seed}.items()}
            | {"log_interval": 1},
        )
        try:
            check_method(_config(run.files, run.overrides).get(), BUNDLE_ROOT / "configs")
        except ValueError as error:
            raise ValueError(f"{run.name}: {error}") from error
        if run.name in runs:
            files = [", ".join(other.files[2:]) or "simcvd" for other in (runs[run.name], run)]
            raise ValueError(
                f"{files[0]} and {files[1]} would share the folder {run.name}: give an overlay file another name, or "
                "leave out what is listed twice."
            )
        runs[run.name] = run
    return list(runs.values())


def all_methods() -> list[str]:
    """SimCVD and every method overlay of ``configs/`` that needs no trained network, by name."""
    files = sorted(BUNDLE_ROOT.glob("configs/method_*.json"))
    return ["simcvd", *(file.stem for file in files if "teacher_weights" not in file.read_text(encoding="utf-8"))]


def method_name(overlays: Sequence[str | Path], without: str = "simcvd") -> str:
    """What a combination of overlays is called: their names without the kind, joined by +; none are ``without``."""
    names = [Path(part).stem.removeprefix("method_").removeprefix("ablation_") for part in overlays]
    return "+".join(names) or without


def as_json(name: str, value: Any) -> Any:
    """What JSON gives back for a value: a record compares with it, and configs hold nothing else.

    Raises:
        ValueError: when it cannot hold the value of this name.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is {value!r}, which a config cannot hold ({error}): give what JSON can.") from None


def _overlay(name: str) -> Path:
    for file in (BUNDLE_ROOT / "configs" / f"{name}.json", Path(name)):
        if file.is_file():
            try:
                dict(ConfigParser.load_config_file(file))
            except Exception as error:  # of the JSON or YAML reader
                raise ValueError(f"The overlay {file} cannot be read ({error}): mend it there.") from error
            return file.resolve()
    known = sorted(
        file.stem for kind in ("data", "method", "ablation") for file in BUNDLE_ROOT.glob(f"configs/{kind}_*.json")
    )
    raise FileNotFoundError(f"No overlay {name}: give the path of a file or one of simcvd, {', '.join(known)}.")


def split(run: Run, folds: int, output_dir: Path) -> list[Run]:
    """One run for each fold of the labelled cases; their datalists are written to ``output_dir/folds``."""
    settings = _config(run.files, run.overrides).get()
    files = write_folds(
        settings["dataset_dir"], folds, output_dir / "folds", settings["datalist"], settings["num_labeled"]
    )
    runs = []
    for number, file in enumerate(files):
        content = json.loads(file.read_text(encoding="utf-8"))
        trained = sum("label" in item for item in content["training"])
        fold = {"number": number, "of": folds, "num_labeled": trained + len(content["validation"])}
        overrides = {**run.overrides, "datalist": str(file), "num_labeled": trained}
        runs.append(Run(f"{run.name}_fold{number}", run.files, overrides, fold))
    return runs


def check_evaluation(run: Run, eval_section: str, inference_mode: str) -> None:
    """Make the list of cases and the inferer of a run's evaluation, long before it starts.

    Raises:
        ValueError: when there is no case, one has no label or file, or the settings do not fit.
    """
    chosen = {"bundle_root": str(BUNDLE_ROOT), "eval_section": eval_section, "inference_mode": inference_mode}
    parser = _config([*run.files, EVALUATE], {**run.overrides, **chosen})
    try:
        parser.get_parsed_content("validate::dataset::data")
        parser.get_parsed_content("validate::inferer")
    except Exception as error:  # MONAI wraps what our functions raised
        raise ValueError(f"{run.name} cannot be evaluated: {root_cause(error)}") from error


def run_as_jobs(tasks: Sequence[Job], folders: Sequence[tuple[Path, Path | None]], resources: Resources) -> None:
    """Submit the runs that are neither done nor in SLURM's queue already, and wait for all."""
    require_slurm()
    live, numbers = queued(), {}
    for task, (folder, evaluation) in zip(tasks, folders, strict=True):
        number = job_of(folder)
        if number is None or number not in live:
            if is_done(folder, evaluation) or former_record(task.arguments[0], folder) is None:
                continue
            number = submit(task, folder.parent, resources)
        numbers[task.name] = number
    wait(numbers)


def run_here(tasks: Sequence[Job]) -> list[bool]:
    """Run on this machine, one a GPU at a time; returns which are done."""
    devices: SimpleQueue[str | None] = SimpleQueue()
    names = visible_devices()
    for device in names:
        devices.put(device)

    def one(task: Job) -> bool:
        device = devices.get()
        try:
            return task.function(*task.arguments, device)
        except Stopped as error:
            logger.error("%s", error)
            return False
        finally:
            devices.put(device)

    with ThreadPoolExecutor(len(names)) as threads:
        return list(threads.map(one, tasks))


def visible_devices() -> Sequence[str | None]:
    """What ``CUDA_VISIBLE_DEVICES`` is to be for each run at a time; ``None`` leaves it as it is."""
    count = torch.cuda.device_count()
    if count < 2:
        return [None]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [*(map(str.strip, given.split(",")) if given else map(str, range(count)))][:count]


def former_record(run: Run, folder: Path) -> dict[str, Any] | None:
    """What is known of the run in this folder, or ``None`` when that is another one's; the log says so."""
    settings = _settings(run)
    record: dict[str, Any] = {"run": settings, "starts": []}
    if (folder / RECORD).is_file():
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    changed = [key for key in {**settings, **record["run"]} if settings.get(key) != record["run"].get(key)]
    if changed:
        logger.error("%s: made with another %s. Choose another output_dir.", folder, ", ".join(changed))
        return None
    return record


def evaluation_folder(folder: Path, eval_section: str, inference_mode: str) -> Path | None:
    """Where the evaluation of a run lies, ``None`` for none."""
    return None if eval_section == "none" else folder / f"eval_{eval_section}_{inference_mode}"


def execute(run: Run, output_dir: Path, eval_section: str, inference_mode: str, device: str | None = None) -> bool:
    """Train and evaluate one run as far as that has not been done; returns whether all of it is done."""
    folder = output_dir / run.name
    common = {**run.overrides, "bundle_root": str(BUNDLE_ROOT), "ckpt_dir": str(folder / "models")}
    record = former_record(run, folder)
    if record is None:
        return False
    if not (folder / "model.pt").is_file():
        resume = any(folder.glob("checkpoints/checkpoint_*.pt"))
        record["starts"].append(provenance(visible_devices().index(device)))
        write_json(folder / RECORD, record)
        write_json(folder / CONFIG, _config(run.files, run.overrides).get())
        logger.info("%s: training%s", run.name, ", continued" if resume else "")
        training = RUN_IDS[Path(run.files[0]).stem]
        if not _bundle(training, run.files, {**common, "output_dir": folder, "resume": resume}, folder, device):
            return False
    target = evaluation_folder(folder, eval_section, inference_mode)
    if target is None:
        return True
    if not (target / "summary.json").is_file():
        logger.info("%s: evaluating", run.name)
        evaluation = {"output_dir": target, "weights": folder / "model.pt", "eval_section": eval_section}
        arguments = {**common, **evaluation, "inference_mode": inference_mode, "save_predictions": True}
        if not _bundle("evaluating", [*run.files, EVALUATE], arguments, folder, device):
            return False
    score = json.loads((target / "summary.json").read_text(encoding="utf-8"))["overall"]["dice"]
    dice = "undefined, as all masks are empty" if score["n"] == 0 else f"{score['mean']:.4f} +- {score['std']:.4f}"
    logger.info("%s: Dice %s (%s, %s)", run.name, dice, eval_section, inference_mode)
    return True


def _settings(run: Run) -> dict[str, Any]:
    """What makes a run another one. Of overlays also the content: another file of the same name, or an edited one."""
    contents = [json.dumps(ConfigParser.load_config_file(file)) for file in run.files[1:]]
    settings: dict[str, Any] = {
        "files": [Path(file).name for file in run.files],
        "content of overlays": [hashlib.sha256(content.encode()).hexdigest()[:12] for content in contents],
        **run.overrides,
    }
    return settings if run.fold is None else {**settings, "fold": run.fold}


def _config(files: Sequence[str], overrides: Mapping[str, Any]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(files))
    for name, value in overrides.items():
        parser[name] = value
    return parser


def _bundle(run_id: str, files: Sequence[str], settings: Mapping[str, Any], folder: Path, device: str | None) -> bool:
    """Run the bundle in a process of its own, its output appended to the log of the run."""
    arguments = [text for name, value in settings.items() for text in (f"--{name}", argument(value))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BUNDLE_ROOT), os.environ.get("PYTHONPATH", "")])}
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(list(files)), *arguments]
    with (folder / LOG).open("a", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    if -done.returncode in STOPS:
        name = signal.Signals(-done.returncode).name
        raise Stopped(f"{folder.name}: {run_id} was ended by {name}; it will continue from its last checkpoint.")
    if done.returncode != 0:
        last = (folder / LOG).read_text(encoding="utf-8").strip().splitlines()[-1:]
        logger.error("%s: %s failed (%s). All of it: %s", folder.name, run_id, " ".join(last), folder / LOG)
    return done.returncode == 0
