"""Python and ranks of ``torchrun`` in forked processes: a fresh start of MONAI takes 6 s of a processor, a fork none.

A process has one thread, as a fork does not inherit a pool of threads. It is told so before it starts threads of its
own: when two of them are the first to compute, torch mends its pool twice at once ("Invalid thread pool").
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import monai.bundle  # noqa: F401 loaded once, for all forks
import pytest
import torch
from monai.utils import optional_import
from torch.multiprocessing.spawn import start_processes

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
optional_import("ignite.engine")
os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


def start(
    arguments: Sequence[str], log: Path, folder: Path | None = None, file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:  # fmt: skip
    """``python ARGUMENTS`` in a forked process of its own group.

    Args:
        arguments: ``-m MODULE`` or a script, and what it is given.
        log: file that its output is appended to.
        folder: its working directory; that of this process by default.
        file_size: bytes that a file may have at most, as on a full disk.
        environment: variables to set.

    Returns:
        Process id.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
        sys.excepthook = sys.__excepthook__
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        os.environ.update(environment or {})
        tempfile.tempdir = None  # this process may have looked for it
        os.chdir(folder or ".")
        if arguments[0] == "-m":
            sys.argv = list(arguments[1:])
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(arguments)
            sys.path.insert(0, str(Path(sys.argv[0]).parent))
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float = 3600) -> int:
    """Exit code of a process; negative is the signal that ended it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} did not end in {seconds} s")


def run(
    arguments: Sequence[str], log: Path, folder: Path | None = None, file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:  # fmt: skip
    """Exit code and output of ``python ARGUMENTS``."""
    before = log.stat().st_size if log.exists() else 0
    code = wait(start(arguments, log, folder, file_size, environment))
    return code, log.read_bytes()[before:].decode(errors="replace")


def subprocess_run(command: Sequence[str], *, stdout: IO[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` of a Python command with a log, but forked."""
    return subprocess.CompletedProcess(command, wait(start(command[1:], Path(stdout.name))))


def bundle_arguments(files: Sequence[str], settings: Mapping[str, Any], run_id: str = "run") -> list[str]:
    """``-m monai.bundle run`` with configs (relative to the bundle's or absolute) and ids to override."""
    arguments = ["-m", "monai.bundle", "run", run_id, "--config_file", json.dumps([str(CONFIGS / f) for f in files])]
    return arguments + [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def last_line(text: str) -> str:
    """The ``error: ...`` at the end of a run's output, with the lines after it."""
    return text[text.rindex("\nerror: ") + 1 :].strip() if "\nerror: " in text else text.strip()[-300:]


def _start_rank(
    rank: int, world_size: int, per_machine: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank % per_machine),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    function(rank, *arguments)


def run_ranks(function: Callable[..., None], world_size: int, *arguments: Any, per_machine: int | None = None) -> None:
    """Call ``function(rank, *arguments)`` in forked processes with torchrun's variables; their errors are raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = start_processes(  # type: ignore[no-untyped-call]
        _start_rank, (world_size, per_machine or world_size, port, function, arguments), world_size, join=False,
        start_method="fork",
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not ranks.join(timeout=10):  # true when all have ended
        if time.monotonic() > deadline:
            for process in ranks.processes:
                process.kill()
            pytest.fail(f"{world_size} processes wait for each other.")
