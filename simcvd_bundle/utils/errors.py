"""What an uncaught error says: the cause that a user can mend, at the end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from simcvd_bundle.utils.paths import PACKAGE


def show_root_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the report of an uncaught error with what happened; MONAI wraps every error into general ones.

    Of several processes each names its rank, and ``torchrun`` is told, for its summary, which comes last of all.
    """
    sys.__excepthook__(kind, error, trace)
    cause = root_cause(error)
    if cause is not error:
        rank = f" in rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}" if "RANK" in os.environ else ""
        print(f"\nerror{rank}: {cause}", file=sys.stderr)
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        try:
            raise cause
        except BaseException:  # the record takes the traceback of the exception that is being handled
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
