"""What a result was computed with: version, commit, hardware, packages."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import simcvd_bundle
from simcvd_bundle.utils.devices import hardware
from simcvd_bundle.utils.paths import BUNDLE_ROOT

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "nibabel", "edt")


def provenance() -> dict[str, Any]:
    """Time, version and commit of the bundle, hardware and versions of packages, for a JSON file.

    ``commit`` is that of git, with ``-dirty`` behind it when files differ from it (those in ``models/`` aside: every
    training replaces them), and ``None`` outside of a checkout.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": simcvd_bundle.__version__,
        "commit": commit(BUNDLE_ROOT),
        "hardware": hardware("cuda" if torch.cuda.is_available() else "cpu"),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def commit(root: Path) -> str | None:
    """Commit of the checkout ``root``, as ``provenance`` says it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        name = git("describe", "--always", "--abbrev=12")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)models")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{name}-dirty" if changed else name
