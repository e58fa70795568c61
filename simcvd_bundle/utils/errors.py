"""What an uncaught error says: the cause that a user can mend, at the end."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from simcvd_bundle.utils.paths import PACKAGE


def show_root_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the report of an uncaught error with what happened; MONAI wraps every error into general ones.

    Of several processes each names its rank, and ``torchrun`` is told, for its summary, which comes last of all. A
    process is one of several when ``RANK`` and ``WORLD_SIZE`` say so; one of the two alone, which a shell has kept, and
    the variables of other launchers mean nothing.
    """
    sys.__excepthook__(kind, error, trace)
    cause = root_cause(error)
    if cause is not error:
        rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
        several = rank.isdecimal() and size.isdecimal() and int(size) > 1
        place = f" in rank {rank} of {size}" if several else ""
        print(f"\nerror{place}: {cause}", file=sys.stderr)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        try:
            raise cause
        except BaseException:  # the record takes the traceback of the exception that is being handled
            with suppress(OSError):  # the variable may be left of a launcher that has ended
                get_error_handler().record_exception(cause)


def root_cause(error: BaseException) -> BaseException:
    """The outermost error of a chain that this package raised, as it names file or id; else the first cause."""
    cause = error
    while not _raised_here(cause) and cause.__cause__ is not None:
        cause = cause.__cause__
    return cause


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def first_cause(error: BaseException) -> BaseException:
    """The error that a chain of errors began with; MONAI's transforms wrap it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
