"""The settings of a run, kept in its checkpoints, so that a run is continued with those it was started with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simcvd_bundle.checks import MONAI_IDS, running_config

FREE = (
    "bundle_root", "output_dir", "ckpt_dir", "cache_dir", "dataset_dir", "datalist", "train::dataset::data",
    "resume", "pretrained", "device", "rank", "world_size", "backend", "join", "network", "projection_head",
    "num_workers", "validation_workers", "iterations", "train::trainer::max_epochs",
    "log_interval", "checkpoint_interval", "val_interval", "validate", "validate_teacher", "inference_mode",
    "window_stride", "fast_max_voxels", "train::handlers", "imports", "initialize", "run", "training", "finalize",
    *sorted(MONAI_IDS),
)  # fmt: skip
"""Ids that say where and how long a run works and what it reports. The training cases are compared by name."""


class RunSettings:
    """What determines the weights: the config without ``FREE`` ids, and the training cases, as part of a checkpoint.

    Args:
        cases: the training datalist.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]]) -> None:
        self.settings = dict(_leaves(running_config()))
        names = [(Path(str(case.get("image"))).name, case.get("label") is not None) for case in cases]
        labeled = sum(known for _, known in names)
        digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
        self.settings["training cases"] = f"{len(names)}, {labeled} of them labeled (names {digest})"

    def state_dict(self) -> dict[str, str]:
        """Settings by id, as JSON text."""
        return self.settings

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Compare with saved settings.

        Raises:
            ValueError: with the settings that differ.
        """
        names = sorted(state.keys() | self.settings.keys())
        changes = [
            f"{name} was {state.get(name, 'not set')} and is now {self.settings.get(name, 'not set')}"
            for name in names
            if state.get(name) != self.settings.get(name)
        ]
        if changes:
            raise ValueError("; ".join(changes[:10]) + ("; ..." if len(changes) > 10 else "") + ".")


def _leaves(value: Any, name: str = "") -> list[tuple[str, str]]:
    if any(name == free or name.startswith(f"{free}::") for free in FREE) or name.endswith("_desc_"):
        return []
    if isinstance(value, Mapping):
        items = [(f"{name}::{key}" if name else str(key), member) for key, member in value.items()]
        return [leaf for key, member in items for leaf in _leaves(member, key)]
    return [(name, json.dumps(value, default=str))]
