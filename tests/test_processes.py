"""The forked processes of the tests."""

from __future__ import annotations

import multiprocessing
from threading import Barrier, Thread

import processes  # noqa: F401 what it does to forks
import torch


def compute_in_threads() -> None:
    """Exit code 1 when torch fails in one of 16 threads that begin together."""
    together, failed = Barrier(16), []
    values = torch.ones(100_000)

    def compute() -> None:
        together.wait()
        try:
            values.sum()
        except RuntimeError as error:
            failed.append(error)

    threads = [Thread(target=compute) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raise SystemExit(bool(failed))


def test_threads_of_a_fork_may_be_the_first_to_compute() -> None:
    torch.ones(100_000).sum()  # this process has a pool of threads, which a fork does not inherit
    torch.set_num_threads(torch.get_num_threads())
    for _ in range(30):
        process = multiprocessing.get_context("fork").Process(target=compute_in_threads)
        process.start()
        process.join()
        assert process.exitcode == 0
