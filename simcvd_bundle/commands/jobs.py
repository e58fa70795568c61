"""Runs as jobs of a SLURM cluster: submitit writes and requeues them, SLURM decides where and when they run."""

from __future__ import annotations

import getpass
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simcvd_bundle.utils.atomic import write_json

logger = logging.getLogger(__name__)

JOB = "job.json"
"""File of a run's folder: which job it is, or was."""
FOLDER = "jobs"
"""Folder beside those of the runs: what submitit needs of each job, and the job's own output."""
REQUEUES = 100
"""How often a job may run out of its time and be put back; each time it goes on from its last checkpoint."""
SIGNALLED_S = 600
"""Longest grace between the signal that ends a training and the end of its job."""


class Stopped(RuntimeError):
    """A training was ended by a signal from outside, as a scheduler ends it."""


class Job:
    """A run as submitit calls it: in the process that SLURM starts, and again in each that follows it.

    SLURM signals every process of a job, so the training ends too. What then becomes of the job is decided in this
    process: by submitit's handler, which puts it back into the queue, or by SLURM, which ends it.

    Args:
        name: what it is called.
        function: the run; returns whether it is done, continues what it began, and can be pickled.
        arguments: of the function.
    """

    def __init__(self, name: str, function: Callable[..., bool], *arguments: Any) -> None:
        self.name, self.function, self.arguments = name, function, arguments

    def __call__(self) -> None:
        """Run.

        Raises:
            RuntimeError: when it failed; the job has failed then, and is not put back.
        """
        try:
            done = self.function(*self.arguments)
        except Stopped:
            time.sleep(SIGNALLED_S)
            raise
        if not done:
            raise RuntimeError(f"{self.name} failed: see its log.txt.")

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue: the same, as the run continues by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Resources(NamedTuple):
    """What each job asks SLURM for; ``None`` leaves it to the cluster's defaults.

    Attributes:
        partition: where it may run.
        account: who it is charged to.
        hours: its time limit; whatever needs longer is put back into the queue.
        gpus: of its node, 0 for a job on CPUs.
        cpus: processors, for the loader's workers.
        memory_gb: main memory.
        sbatch: further options of ``sbatch`` by name, such as ``{"qos": "low"}``; ``True`` for those without value.
    """

    partition: str | None = None
    account: str | None = None
    hours: float | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    sbatch: Mapping[str, Any] | None = None

    def parameters(self, signal_s: int = 90) -> dict[str, Any]:
        """As parameters of submitit's executor; ``signal_s`` is the time that a job has to be put back."""
        cpus = 8 if self.cpus is None else self.cpus
        chosen = {
            "timeout_min": max(1, round(60 * (24 if self.hours is None else self.hours))),
            "cpus_per_task": cpus,
            "gpus_per_node": (1 if self.gpus is None else self.gpus) or None,
            "mem_gb": self.memory_gb,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_signal_delay_s": signal_s,
            # a job whose node fails or that is preempted goes back too; and srun forgets the job's processors
            "slurm_additional_parameters": {"requeue": True, **(self.sbatch or {})},
            "slurm_srun_args": [f"--cpus-per-task={cpus}"],
        }
        return {name: value for name, value in chosen.items() if value is not None}


def submit(job: Job, folder: Path, resources: Resources, signal_s: int = 90) -> str:
    """Put a job into SLURM's queue; the folder of its run remembers its number.

    Args:
        job: the job.
        folder: folder of all runs, which the nodes must see under the same path.
        resources: what it asks for.
        signal_s: see ``Resources.parameters``.

    Returns:
        Number of the job.

    Raises:
        ValueError: without submitit or SLURM, or when SLURM does not take the job.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise ValueError("--executor slurm needs submitit: pip install submitit.") from None
    require_slurm()
    executor = submitit.AutoExecutor(folder / FOLDER, cluster="slurm", slurm_max_num_timeout=REQUEUES)
    executor.update_parameters(name=job.name, **resources.parameters(signal_s))
    try:
        number = str(executor.submit(job).job_id)
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM does not take {job.name}: {str(error).strip().splitlines()[-1]}") from None
    (folder / job.name).mkdir(parents=True, exist_ok=True)
    write_json(folder / job.name / JOB, {"job": number})
    return number


def require_slurm() -> None:
    """Raise ``ValueError`` where there is no SLURM."""
    missing = [name for name in ("sbatch", "squeue", "srun") if shutil.which(name) is None]
    if missing:
        raise ValueError(
            f"--executor slurm needs SLURM, but there is no {', '.join(missing)} here: log in to the cluster."
        )


class Queued(NamedTuple):
    """A job that SLURM has not ended.

    Attributes:
        number: of the job.
        state: SLURM's word, such as ``PENDING``.
        where: the nodes, or why it waits.
    """

    number: str
    state: str
    where: str


def queued() -> dict[str, Queued]:
    """All jobs of this user that SLURM has not ended, by number; accounting, which not every cluster has, is not asked.

    Raises:
        OSError: when SLURM cannot be asked.
    """
    command = ["squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%T|%R"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"SLURM's queue cannot be read ({done.stderr.strip()}): try again.")
    jobs = (Queued(*line.strip().split("|", 2)) for line in done.stdout.splitlines() if line.strip())
    return {job.number: job for job in jobs}


def wait(numbers: Mapping[str, str], interval_s: float = 30) -> None:
    """Wait until SLURM has ended the jobs, and say when the state of one changes; Ctrl-C ends the waiting alone.

    Args:
        numbers: number of the job by run.
        interval_s: seconds between two looks.

    Raises:
        SystemExit: after Ctrl-C.
    """
    seen: dict[str, str] = {}
    try:
        while True:
            try:
                jobs = queued()
            except OSError as error:  # a controller that restarts; the jobs do not mind
                logger.warning("%s", error)
                time.sleep(interval_s)
                continue
            for name, number in numbers.items():
                state = f"{jobs[number].state.lower()} {jobs[number].where}" if number in jobs else "ended"
                if seen.get(name) != state:
                    logger.info("%s: job %s %s", name, number, state)
                seen[name] = state
            if not jobs.keys() & set(numbers.values()):
                return
            time.sleep(interval_s)
    except KeyboardInterrupt:
        logger.info(
            "\nThe jobs go on without this command. Give it again to wait for them, with --status True for a table.\n"
            "To cancel them: scancel %s",
            " ".join(numbers.values()),
        )
        raise SystemExit(130) from None
