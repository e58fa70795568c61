"""What a run says when workers of a loader cannot hand over batches or are ended."""

from __future__ import annotations

import errno
from collections import namedtuple

import pytest

from simcvd_bundle.utils import workers
from simcvd_bundle.utils.workers import CANNOT, SEGMENT, cannot_hand_over, worker_errors

FULL = OSError(errno.ENOSPC, "No space left on device")


WORKER = "DataLoader worker (pid 3)"
BUS_ERROR = (
    f"{WORKER} is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory."
)
MEMORY = "memory was full: .*--num_workers 0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"Caught RuntimeError in {WORKER}.\n  raise\nRuntimeError: {CANNOT} (why): do", f"^{CANNOT} .why.: do$"),
        (BUS_ERROR, "--shm-size=8g.*--num_workers 0"),
        (f"{WORKER} is killed by signal: Killed. ", MEMORY),
        ("DataLoader worker (pid(s) 3) exited unexpectedly", MEMORY),
    ],
)
def test_the_remedy_is_named(text: str, message: str) -> None:
    error = RuntimeError(text)
    with pytest.raises(RuntimeError, match=message) as caught, worker_errors():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("free", "kind", "message"), [(4096, RuntimeError, "--shm-size"), (2**30, OSError, "^.Errno 28")]
)
def test_no_room_for_queues_is_told_from_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, free: int, kind: type[Exception], message: str
) -> None:
    usage = namedtuple("usage", "total free")(2**26, free)
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(workers, "SHARED_MEMORY", workers.Path("/"))
    with pytest.raises(kind, match=message), worker_errors():
        raise FULL


def test_other_errors_pass() -> None:
    for error in (
        ValueError("a case"),
        RuntimeError("Caught RuntimeError in DataLoader worker process 0."),
        KeyError("x"),
    ):
        with pytest.raises(type(error)) as caught, worker_errors():
            raise error
        assert caught.value is error
    stack = RuntimeError("stack expects each tensor to be equal size")
    with pytest.raises(RuntimeError) as caught, cannot_hand_over(SEGMENT):
        raise stack
    assert caught.value is stack


def test_sockets_that_find_no_place_name_their_folder() -> None:
    with pytest.raises(RuntimeError, match=f"^{CANNOT} .AF_UNIX path too long.: .* set TMPDIR .*--num_workers 0"):
        with cannot_hand_over():
            raise OSError("AF_UNIX path too long")
