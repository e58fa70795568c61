"""Command line of the bundle: ``python -m simcvd_bundle COMMAND``."""

from __future__ import annotations

import logging
import sys

import fire

from simcvd_bundle.commands.experiment import experiment
from simcvd_bundle.commands.init import init
from simcvd_bundle.commands.prepare import Prepare
from simcvd_bundle.commands.report import report
from simcvd_bundle.commands.review import review

COMMANDS = {"init": init, "prepare": Prepare, "experiment": experiment, "report": report, "review": review}


def main() -> None:
    """Run one command; errors that a user can cause end in one line, without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fire.Fire(COMMANDS, name="simcvd_bundle")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
