"""Experiments on a real SLURM of two nodes: queue, Ctrl-C, preemption, time limit, a lost node."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY
from ignite.engine import Engine, Events
from slurm_cluster import SlurmCluster, installed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed(), reason="needs root, submitit, and the packages slurm-wlm and munge"),
]
SETTINGS: dict[str, Any] = {
    **{name: value for name, value in TINY.items() if name not in ("bundle_root", "num_labeled", "log_interval")},
    "executor": "slurm", "gpus": 0, "cpus": 1, "inference_mode": "fast", "experiments": "method_supervised",
    "iterations": 40, "val_interval": 100, "checkpoint_interval": 1,
}  # fmt: skip


class Slow:
    """Handler that makes an iteration last."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: time.sleep(self.seconds))


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with tempfile.TemporaryDirectory(prefix="slurm") as folder, SlurmCluster(Path(folder)) as running:
        yield running


class Experiment:
    """The command, its runs slowed down so that there is time for what befalls them."""

    def __init__(self, cluster: SlurmCluster, dataset_dir: Path, folder: Path, seconds: float = 0.5) -> None:
        self.cluster, self.folder = cluster, folder
        overlay = folder / "data_slow.json"
        slow = {"_target_": "test_slurm.Slow", "seconds": seconds}
        content = {"num_labeled": 3, "cache_dir": str(folder / "cache"), "+train::handlers": [slow]}
        overlay.write_text(json.dumps(content))
        self.command = [sys.executable, "-m", "simcvd_bundle", "experiment", str(dataset_dir), str(overlay)]
        here = Path(__file__).parent  # of this module, which the jobs import, and of what it imports
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [ROOT, here, here.parent]))}

    def start(self, **settings: Any) -> subprocess.Popen[str]:
        chosen = {**SETTINGS, "output_dir": self.folder / "runs", **settings}
        arguments = [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
        return subprocess.Popen(
            [*self.command, *arguments], cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def end(self, running: subprocess.Popen[str], seconds: float = 400) -> tuple[int, str]:
        """Exit code and all that it said."""
        output, errors = running.communicate(timeout=seconds)
        return running.returncode, output + errors

    def table(self, **settings: Any) -> dict[str, list[str]]:
        """The status of each run."""
        code, text = self.end(self.start(**settings, status=True))
        assert code == 0, text
        return {line.split()[0]: re.split(r"  +", line)[1:] for line in text.splitlines()[1:] if "_seed" in line}

    def run(self, name: str = "supervised_seed0") -> Path:
        return self.folder / "runs" / name

    def wait_for_checkpoint(self, name: str = "supervised_seed0") -> None:
        self.cluster.wait_for(lambda: list(self.run(name).glob("checkpoints/checkpoint_*.pt")), 120)

    def job(self, name: str = "supervised_seed0") -> str:
        return str(json.loads((self.run(name) / "job.json").read_text())["job"])

    def resumed(self, name: str = "supervised_seed0") -> list[int]:
        """Iterations at which a start went on."""
        log = (self.run(name) / "log.txt").read_text(errors="replace")
        return [int(number) for number in re.findall(r"Resumed from .* at iteration (\d+)", log)]

    def check_continued(self, starts: int = 2, name: str = "supervised_seed0") -> None:
        """The run is done, in so many starts (more on a slow machine), each from where the one before had come to."""
        record = json.loads((self.run(name) / "record.json").read_text())
        assert len(record["starts"]) >= starts
        resumed = self.resumed(name)
        assert len(resumed) == len(record["starts"]) - 1
        assert resumed == sorted(resumed)
        assert 0 < resumed[0] < 40
        assert list(self.run(name).glob("checkpoints/checkpoint_40.pt"))
        assert (self.run(name) / "eval_test_fast/summary.json").is_file()


@pytest.fixture
def experiment(cluster: SlurmCluster, dataset_dir: Path, tmp_path: Path) -> Experiment:
    return Experiment(cluster, dataset_dir, tmp_path)


def test_jobs_queue_outlive_the_command_and_are_found_again(experiment: Experiment, cluster: SlurmCluster) -> None:
    """Three runs on two nodes."""
    settings = {"seeds": "[0,1,2]"}
    command = experiment.start(**settings)
    names = [f"supervised_seed{seed}" for seed in range(3)]
    for name in names[:2]:
        experiment.wait_for_checkpoint(name)
    table = experiment.table(**settings)
    jobs = [experiment.job(name) for name in names]
    assert len(set(jobs)) == 3
    for name, job in zip(names, jobs, strict=True):
        state, reached, *rest = table[name]
        if name == names[2]:
            assert state == "pending"
            assert "Resources" in table[name][-1] or "Priority" in table[name][-1]
        else:
            assert (state, rest[0]) == ("training", job)
            assert 0 < int(reached.split()[0]) < 40 == int(reached.split()[-1])
    assert {table[name][-1] for name in names[:2]} == {"node1", "node2"}
    command.send_signal(signal.SIGINT)
    code, text = experiment.end(command)
    assert code == 130, text
    assert f"To cancel them: scancel {' '.join(jobs)}" in text
    assert set(cluster.run("squeue", "--noheader", "--format=%i").split()) >= set(jobs)
    code, text = experiment.end(experiment.start(**settings))
    assert code == 0, text
    assert [experiment.job(name) for name in names] == jobs  # none was submitted a second time
    assert all(len(json.loads((experiment.run(name) / "record.json").read_text())["starts"]) == 1 for name in names)
    table = experiment.table(**settings)
    assert all((table[name][0], table[name][1]) == ("done", "40 of 40") for name in names)
    assert all(re.fullmatch(r"[01]\.\d{4}", table[name][2]) for name in names)


def test_a_preempted_job_continues(experiment: Experiment, cluster: SlurmCluster) -> None:
    """By submitit's signal, and by SLURM itself for a job of a partition that goes before."""
    command = experiment.start(partition="low")
    experiment.wait_for_checkpoint()
    job = experiment.job()
    cluster.run("scancel", "--signal=USR2", job)
    cluster.wait_for(lambda: experiment.table()["supervised_seed0"][0] == "pending", 60)
    cluster.wait_for(experiment.resumed, 120)
    cluster.run("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 5")
    code, text = experiment.end(command)
    assert code == 0, text
    assert experiment.job() == job
    experiment.check_continued(starts=3)


def test_a_job_that_runs_out_of_time_continues(cluster: SlurmCluster, dataset_dir: Path, tmp_path: Path) -> None:
    """Two minutes, of which the last 30 s are for being put back."""
    experiment = Experiment(cluster, dataset_dir, tmp_path, seconds=3.0)
    code, text = experiment.end(experiment.start(hours=2 / 60, sbatch="{'signal':'USR2@30'}"))
    assert code == 0, text
    experiment.check_continued(starts=2)


def test_a_job_whose_node_is_lost_continues_on_another(experiment: Experiment, cluster: SlurmCluster) -> None:
    command = experiment.start()
    experiment.wait_for_checkpoint()
    job, lost = experiment.job(), experiment.table()["supervised_seed0"][-1]
    cluster.lose_node(lost)
    try:
        code, text = experiment.end(command)
    finally:
        cluster.start_node(lost)
    assert code == 0, text
    assert experiment.job() == job
    experiment.check_continued()
    (other,) = {"node1", "node2"} - {lost}
    assert f"running {other}" in text
    cluster.wait_for(lambda: cluster.nodes()[lost] == "idle", 60)


def test_a_failed_run_is_named_and_tried_again(experiment: Experiment) -> None:
    """And what SLURM does not take is an error of one line."""
    code, text = experiment.end(experiment.start(temperature=-1))
    assert code == 1
    assert "error: 1 of 1 runs failed: supervised_seed0. See log.txt" in text
    state, *_, where = experiment.table(temperature=-1)["supervised_seed0"]
    assert state == "stopped"
    assert "temperature" in where
    first = experiment.job()
    experiment.end(experiment.start(temperature=-1))
    assert experiment.job() != first
    code, text = experiment.end(experiment.start(output_dir=experiment.folder / "other", partition="none"))
    assert code == 1
    assert "error: SLURM does not take supervised_seed0: " in text
    assert "invalid partition" in text
