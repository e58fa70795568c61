"""Turn published datasets into the form that the bundle trains on: ``dataset.json``, ``images/`` and ``labels/``."""

from __future__ import annotations

from fire.decorators import SetParseFn

from simcvd_bundle.commands.prepare.decathlon import msd
from simcvd_bundle.commands.prepare.left_atrium import la, la_h5
from simcvd_bundle.commands.prepare.pancreas import pancreas

__all__ = ["Prepare"]


class Prepare:
    """Turn a published dataset into ``OUTPUT/dataset.json``, ``OUTPUT/images`` and ``OUTPUT/labels``.

    One command a source. Every command verifies what it wrote, skips the cases that an earlier run finished, and writes
    ``dataset.json`` last, only if every case succeeded.
    """

    la = staticmethod(la)
    la_h5 = staticmethod(la_h5)
    pancreas = staticmethod(pancreas)
    msd = staticmethod(msd)


for command in (la, la_h5, pancreas, msd):
    SetParseFn(str)(command)  # all arguments are names of files, folders or choices
