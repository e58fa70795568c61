"""Checks of a configuration before anything runs, and the settings of a run that its checkpoints keep."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ReferenceResolver

from simcvd_bundle.runs.methods import check_method
from simcvd_bundle.utils.errors import show_root_cause

BASE_CONFIGS = {
    "train.json": "bundle_root", "multi_gpu_train.json": "backend", "evaluate.json": "evaluating",
    "inference.json": "evaluator", "inference_trt.json": "engine", "pretrain.json": "pretraining",
    "classify.json": "classifying",
}  # fmt: skip
"""Configs that define ids, and the id that tells that the config is part of the running one."""

CONTAINERS = ("train", "validate", "validate_teacher", "evaluate")
"""Top-level ids that only group other ids, so that a misspelled member is as silent as a misspelled top-level id."""

MONAI_IDS = {
    "_meta_", "output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0",
}  # fmt: skip
"""Ids that MONAI itself reads or adds: metadata and experiment tracking."""

NAME = "the name of a file or folder"

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "an integer of at least 1": (
        lambda value: type(value) is int and value >= 1,
        "iterations epoch_length labeled_batch_size val_interval checkpoint_interval log_interval in_channels "
        "head_pool_size fast_max_voxels lr_step num_labeled",
    ),
    "an integer of at least 0": (
        lambda value: type(value) is int and value >= 0,
        "unlabeled_batch_size num_workers seed rampup_length warmup_length queue_size",
    ),
    "a number of at least 0": (
        lambda value: _is_number(value) and value >= 0,
        "sdm_weight contrastive_weight distillation_weight consistency_weight",
    ),
    "a number above 0": (
        lambda value: _is_number(value) and value > 0,
        "learning_rate temperature max_grad_norm",
    ),
    "a number from 0 to 1, 1 excluded": (
        lambda value: _is_number(value) and 0 <= value < 1, "ema_decay head_dropout",
    ),
    "a number from 0 to 1": (
        lambda value: _is_number(value) and 0 <= value <= 1, "rotation_prob flip_prob foreground_prob",
    ),
    "three integers of at least 1": (
        lambda value: isinstance(value, list) and [type(v) is int and v >= 1 for v in value] == [True] * 3,
        "patch_size window_stride crop_size smallest_crop",
    ),
    'an object {"1": name, "2": name, ...} with different names': (
        lambda value: isinstance(value, dict) and list(value) == [str(n + 1) for n in range(len(value))]
        and 0 < len(value) == len(set(map(str, value.values()))),
        "class_names",
    ),
    "True or False": (
        lambda value: isinstance(value, bool),
        "resume save_predictions save_probability save_sdm save_dicom_seg overwrite mirror "
        "consistency_includes_sdm",
    ),
    "a list of different class indices, such as [1,2], or []": (
        lambda value: isinstance(value, list) and all(type(v) is int and v >= 1 for v in value)
        and len(set(value)) == len(value),
        "one_piece_classes",
    ),
    NAME: (
        lambda value: isinstance(value, str | dict) and value != "",
        "dataset_dir output_dir ckpt_dir cache_dir datalist pretrained scans_dir report_dir",
    ),
    "the name of a file, or a list of such names": (
        lambda value: isinstance(value, str | list | dict) and bool(value), "weights",
    ),
    "a path without # and ::, as MONAI's configs read # as :: (rename the folder, or link to it)": (
        lambda value: not isinstance(value, str) or not re.search("#|::", value),
        "dataset_dir output_dir ckpt_dir cache_dir weights pretrained datalist",
    ),
}  # fmt: skip
"""What values ids take, checked before anything is built; expressions and references are left to what uses them."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_values(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse values that an id cannot take.

    Args:
        config: ids with plain values, ``$`` expressions or ``@`` references.
        defaults: ids of the base configs; where the default is ``None``, ``None`` is a value.

    Raises:
        ValueError: with the first such id.
    """
    for wanted, (fits, names) in RULES.items():
        for name in names.split():
            value = config.get(name)
            expression = isinstance(value, str) and value.startswith(("$", "@", "%"))
            if name not in config or expression or (value is None and defaults.get(name) is None) or fits(value):
                continue
            if isinstance(defaults.get(name), bool):
                raise ValueError(f"{name} is {value!r}: write True or False, capitalised.")
            remedy = f"set --{name}"
            if wanted == NAME and value != "":
                remedy += " (MONAI's command line reads a name such as 2018_02 or 1e5 as a number: write ./2018_02)"
            raise ValueError(f"{name} is {value!r}, but must be {wanted}: {remedy}.")


def check_config(bundle_root: str, config: Mapping[str, Any] | None = None) -> None:
    """Refuse a configuration with ids that nothing knows or uses; MONAI ignores them without a word.

    From here on an uncaught error of the process also ends with what happened, which MONAI hides under its own.

    An id is known if one of the bundle's base configs has it, and used if the configuration refers to it with ``@`` or
    ``%``. The ids of an overlay or of the command line must be one or the other.

    Args:
        bundle_root: root of the bundle.
        config: the merged config; by default the one that is being resolved right now.

    Raises:
        FileNotFoundError: when ``bundle_root`` is no bundle.
        ValueError: with the unknown ids and what they may have been meant to be; or with an id whose value it cannot
            take, such as the text that MONAI's command line makes of ``false``, which would count as true; or with what
            is wrong with the method (``check_method``).
    """
    sys.excepthook = show_root_cause
    configs = Path(bundle_root, "configs")
    if not (configs / "train.json").is_file():
        raise FileNotFoundError(
            f"bundle_root {bundle_root!r} is not the bundle (no configs/train.json in it): "
            "add --bundle_root /path/to/bundle."
        )
    config = running_config() if config is None else config
    bases = {
        file: json.loads((configs / file).read_text(encoding="utf-8"))
        for file, mark in BASE_CONFIGS.items()
        if mark in config
    }
    known = MONAI_IDS.union(*map(grouped_ids, bases.values()))
    used = set(re.findall(r"[@%]([\w:#]+)", json.dumps(config, default=str).replace("#", "::")))
    used |= {prefix for name in used for prefix in (name.split("::")[0], "::".join(name.split("::")[:2]))}
    unknown = sorted(name for name in grouped_ids(config) if name not in known and name not in used)
    if unknown:
        hints = []
        for name in unknown:
            close = difflib.get_close_matches(name, known, n=1)
            hints.append(f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
        raise ValueError(
            f"Unknown config ids: {', '.join(hints)}. Nothing reads them, so they would be ignored; "
            f"the ids that can be set are those of configs/{' and configs/'.join(bases)}."
        )
    check_values(config, {name: value for base in bases.values() for name, value in base.items()})
    if "train.json" in bases and "loss" in config:
        check_method(config, configs)


def grouped_ids(config: Mapping[str, Any]) -> set[str]:
    """Top-level ids of a config, and the members of the groups among them as ``group::member``."""
    members = {
        f"{group}::{member}" for group in CONTAINERS if isinstance(config.get(group), dict) for member in config[group]
    }
    return set(config) | members


def running_config() -> dict[str, Any]:
    """Merged content of the config that is being resolved right now (MONAI has no id for the whole of it).

    Raises:
        RuntimeError: when no config is being resolved.
    """
    for frame in inspect.stack(context=0):
        resolver = frame.frame.f_locals.get("self")
        if isinstance(resolver, ReferenceResolver) and "" in resolver.items:
            config: dict[str, Any] = resolver.items[""].get_config()  # type: ignore[no-untyped-call]
            return config
    raise RuntimeError("check_config works as a part of a MONAI bundle config only.")


FREE = (
    "bundle_root", "output_dir", "ckpt_dir", "cache_dir", "dataset_dir", "datalist", "train::dataset::data",
    "resume", "pretrained", "device", "rank", "world_size", "backend", "join", "leave", "network", "projection_head",
    "num_workers", "train::dataloader::pin_memory", "train::trainer::non_blocking",
    "iterations", "train::trainer::max_epochs",
    "log_interval", "checkpoint_interval", "val_interval", "validate", "validate_teacher", "inference_mode",
    "window_stride", "fast_max_voxels", "one_piece_classes", "train::handlers",
    "imports", "initialize", "run", "training", "pretraining",
    "classifying", "evaluating", "evaluate", "finalize",
    "lifecycle", "evaluators", "tracked", "checkpoint", "check",
    *sorted(MONAI_IDS),
)  # fmt: skip
"""Ids that say where and how long a run works and what it reports. Training cases are compared by name and class."""


class RunSettings:
    """What determines the weights: the config without ``FREE`` ids, and the training cases, as part of a checkpoint.

    Args:
        cases: the training datalist.
    """

    def __init__(self, cases: Sequence[Mapping[str, Any]]) -> None:
        self.settings = leaves(running_config(), FREE)
        names = [
            (Path(str(case.get("image"))).name, case.get("label") is not None, case.get("class")) for case in cases
        ]
        labeled = sum(known for _, known, _ in names)
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
        changes = differences(state, self.settings)
        if changes:
            raise ValueError("; ".join(changes[:10]) + ("; ..." if len(changes) > 10 else "") + ".")


def leaves(config: Mapping[str, Any], free: Sequence[str]) -> dict[str, str]:
    """Values by id, as JSON text, without those of the ids ``free`` and descriptions."""
    return dict(_leaves(config, "", free))


def differences(former: Mapping[str, str], settings: Mapping[str, str]) -> list[str]:
    """What differs between two results of `leaves`, in words."""
    return [
        f"{name} was {former.get(name, 'not set')} and is now {settings.get(name, 'not set')}"
        for name in sorted(former.keys() | settings.keys())
        if former.get(name) != settings.get(name)
    ]


def _leaves(value: Any, name: str, free: Sequence[str]) -> list[tuple[str, str]]:
    if any(name == other or name.startswith(f"{other}::") for other in free) or name.endswith("_desc_"):
        return []
    if isinstance(value, Mapping):
        items = [(f"{name}::{key}" if name else str(key), member) for key, member in value.items()]
        return [leaf for key, member in items for leaf in _leaves(member, key, free)]
    return [(name, json.dumps(value, default=str))]
