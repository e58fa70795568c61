"""What a run of batch inference has still to do, and whether the results in its folder are of its settings."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import simcvd_bundle
from simcvd_bundle.data.names import result_file
from simcvd_bundle.data.subjects import file_of
from simcvd_bundle.inference.case_table import CaseTable
from simcvd_bundle.runs.config import MONAI_IDS, differences, leaves, running_config
from simcvd_bundle.runs.weights import weight_files
from simcvd_bundle.utils.atomic import digest, write_json
from simcvd_bundle.utils.locks import locked
from simcvd_bundle.utils.shares import own_share

logger = logging.getLogger(__name__)

FREE = (
    "bundle_root", "output_dir", "ckpt_dir", "weights", "dataset_dir", "phantoms", "scans", "share", "overwrite",
    "device", "num_workers", "handlers", "imports", "initialize", "run", "finalize", *sorted(MONAI_IDS),
)  # fmt: skip
"""Ids that change no result; weights are compared by their content (an exported network may stand for them)."""
REMEDY = "set --overwrite True to replace them, or another --output_dir"


def remaining_scans(
    scans: Sequence[Mapping[str, Any]],
    table: CaseTable,
    weights: str | Sequence[str],
    share: str | None = None,
    overwrite: bool = False,
) -> list[Mapping[str, Any]]:
    """Scans of this process without complete results of these settings, which ``settings.json`` beside them holds.

    Args:
        scans: items with ``image``, the same in all processes.
        table: table of the folder of results.
        weights: see `weight_files`.
        share: see `own_share`.
        overwrite: segment all scans of the share, whatever the folder holds.

    Raises:
        ValueError: when the folder holds results of other settings, or of unknown ones, and ``overwrite`` is off.
    """
    own = own_share(scans, share)
    settings = leaves(running_config(), FREE)
    settings["version of the bundle"] = simcvd_bundle.__version__
    settings["SHA-256 of the weights"] = ", ".join(map(digest, weight_files(weights)))
    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    file = table.folder / "settings.json"
    with locked(table.lock):
        if not overwrite:
            _compare(file, settings, table, own)
        if not file.is_file() or overwrite:
            write_json(file, settings)
    table.start(name, keep_others=not overwrite)
    done = set() if overwrite else table.complete()
    left = [item for item in own if os.path.abspath(file_of(item)) not in done]
    if len(left) < len(own):
        logger.info("%d of %d scans are done already and are skipped.", len(own) - len(left), len(own))
    return left


def _compare(file: Path, settings: Mapping[str, str], table: CaseTable, own: Sequence[Mapping[str, Any]]) -> None:
    if file.is_file():
        try:
            former = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}), so its results are of unknown settings: {REMEDY}."
            ) from None
        changes = differences(former, settings)
        if changes:
            raise ValueError(
                f"{table.folder} holds results of other settings: {'; '.join(changes[:5])}"
                f"{'; ...' if len(changes) > 5 else ''}. To go on {REMEDY}."
            )
        return
    found = [result for item in own if (result := result_file(file_of(item), table.folder, "seg")).is_file()]
    if found or table.file.is_file():
        raise ValueError(f"{found[0] if found else table.file} is of unknown settings (no {file}): {REMEDY}.")
