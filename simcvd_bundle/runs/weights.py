"""Reading and writing network weights: flat tensors, readable with ``weights_only=True``."""

from __future__ import annotations

import copy
import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simcvd_bundle.networks.ensemble import Ensemble
from simcvd_bundle.networks.extra import EXTRA
from simcvd_bundle.utils.atomic import atomically, digest
from simcvd_bundle.utils.distributed import from_rank_0

logger = logging.getLogger(__name__)

ENCODER = ("network.encoder", "network.downs")
"""The parts that a pre-trained encoder shares with the network that it is loaded into."""


def weight_files(weights: str | Sequence[str]) -> list[str]:
    """The files of ``weights``: one, or several as a list or as the text ``[a.pt,b.pt]`` of a command line.

    Raises:
        ValueError: for a list that is empty or names a file twice.
    """
    if isinstance(weights, str) and not (weights.startswith("[") and weights.endswith("]")):
        return [weights]
    parts = weights[1:-1].split(",") if isinstance(weights, str) else weights
    files = [str(part).strip().strip("'\"") for part in parts]
    if not all(files) or len(set(files)) < len(files) or not files:
        raise ValueError(f"weights is {weights!r}: give each file once, as in [a.pt,b.pt].")
    return files


def with_members(network: nn.Module, weights: str | Sequence[str], device: torch.device | str) -> nn.Module:
    """The network on a device, for several weights an ``Ensemble`` with a network for each.

    Args:
        network: the network.
        weights: see `weight_files`; ``load_weights`` reads them.
        device: the device.
    """
    size = len(weight_files(weights))
    return (network if size == 1 else Ensemble([network, *(copy.deepcopy(network) for _ in range(size - 1))])).to(
        device
    )


def frozen_teacher(network: nn.Module, weights: str | None) -> nn.ModuleDict:
    """A trained network as the teacher of a training that does not change it: no gradient, no dropout.

    Args:
        network: network of the form that was trained, on its device.
        weights: its file, see `load_weights`.

    Returns:
        ``network``, as ``StudentTeacherInferer`` and ``ScanInferer`` call it.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: without ``weights``, or when they cannot be read or belong to another network.
    """
    if weights is None:
        raise ValueError(
            "teacher_weights is not set: give the trained network that teaches, --teacher_weights RUN/model.pt."
        )
    load_weights(network, weights)
    return nn.ModuleDict({"network": network.requires_grad_(False).eval()})


def load_weights(network: nn.Module, path: str | Sequence[str]) -> None:
    """Load a weights file, all or nothing but what serves training only. The first process reads it for all.

    Args:
        network: network to fill; an ``Ensemble`` takes a file for each member.
        path: file with a flat state dict, or one under the key ``model`` (as MONAI Label writes); see `weight_files`.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: when a file cannot be read or belongs to another network.
    """
    members = list(network.members) if isinstance(network, Ensemble) else [network]
    for member, file in zip(members, weight_files(path), strict=True):
        _load(member, file)


def _load(network: nn.Module, path: str) -> None:
    content = from_rank_0(lambda: _read(path))
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if isinstance(state, Mapping):  # exported weights have no extra outputs, and a plain network needs none
        own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(EXTRA)}
        state = {**own, **{name: tensor for name, tensor in state.items() if not str(name).startswith(EXTRA)}}
    try:
        copy.deepcopy(network).load_state_dict(state)  # load_state_dict fills what fits before it raises
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"The weights {path} do not fit the network: check network_def (of a teacher: teacher_def) and class_names "
            f"(of a classifier: classes). {error}"
        ) from error
    network.load_state_dict(state)
    logger.info("Loaded weights %s", path)


def load_pretrained(student: nn.ModuleDict, path: str | None) -> None:
    """Start from earlier weights, in part if need be: what has the name and shape of a tensor here is loaded.

    With another number of classes the output branches keep their random start, with other channels or kernels the
    convolutions concerned. The log names the parts loaded and every tensor left out, a part that is left out as a whole
    by its name. The teacher becomes a copy of the student when the run starts (``MeanTeacherHandler``).

    Args:
        student: ``network`` and what a method adds to it.
        path: ``model.pt`` (the network only, or a pre-trained encoder) or ``checkpoint_N.pt`` of a run; ``None`` loads
            nothing.

    Raises:
        FileNotFoundError: when there is no file.
        ValueError: when the file cannot be read, nothing in it fits the network, or it is an encoder that does not fit
            as a whole: what a random start is mixed with is no pre-training.
    """
    if path is None:
        return
    content = from_rank_0(lambda: _read(path))
    state = content.get("student") if isinstance(content, Mapping) else None
    if state is None:
        state = {f"network.{name}": tensor for name, tensor in _flat(content).items()}
    own = student.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
    parts = {_part(name) for name in state if name.startswith("network.")}
    misfits = [name for name in state if _part(name) in ENCODER and name not in fitting]
    if misfits and parts <= {*ENCODER, "network.head"}:
        name = misfits[0]
        here = list(own[name].shape) if name in own else "missing"
        raise ValueError(
            f"The encoder {path} is another one than this network's: {name} is {list(state[name].shape)} there and "
            f"{here} here. Set in_channels, strides, kernel_sizes and network_def::base_channels as they were there."
        )
    if not any(name.startswith("network.") for name in fitting):
        raise ValueError(f"Nothing in {path} fits the network: pretrained takes weights of this bundle's V-Net.")
    student.load_state_dict(fitting, strict=False)
    loaded = Counter(_part(name) for name in fitting)
    left = sorted((own.keys() | state.keys()) - fitting.keys())
    whole = {part for part in map(_part, left) if part not in loaded}
    logger.info(
        "Loaded %d of %d tensors from %s: %s; left out: %s",
        len(fitting), len(own), path, ", ".join(f"{part} ({count})" for part, count in sorted(loaded.items())),
        ", ".join(dict.fromkeys(_part(name) if _part(name) in whole else name for name in left)) or "none",
    )  # fmt: skip


def _part(name: str) -> str:
    """The part of the student that a tensor belongs to, such as ``network.encoder``."""
    return ".".join(name.split(".")[:2])


def _flat(content: Any) -> Mapping[str, Any]:
    """The state dict of a network's weights file: as it is, or under ``model`` (as MONAI Label writes)."""
    state = content.get("model", content) if isinstance(content, Mapping) else {}
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def _read(path: str) -> Any:
    """Content of a weights file or checkpoint."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"No weights {path}: train first, or set weights to an existing file.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"The weights {path} cannot be read ({error}): the file is damaged or not a weights file."
        ) from error


def plain_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """What a weights file holds of a network (not of its DDP wrapper): what training alone needs is left out."""
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith(EXTRA)
    }


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write weights or a checkpoint; equal content gives equal files."""
    # torch names the archive after a file that it opens itself: equal content would give unequal files
    with atomically(path) as unfinished, unfinished.open("wb") as file:
        torch.save(dict(content), file)


def export_weights(network: nn.Module, run_dir: str, ckpt_dir: str) -> str:
    """Write the final weights of a run to ``run_dir/model.pt`` and make them the bundle's ``ckpt_dir/model.pt``.

    Weights that this replaces are kept as ``ckpt_dir/replaced/model_HASH.pt`` (the first 12 digits of their SHA-256),
    so a demo never destroys shipped weights: copy the file back to undo.

    What serves training only, such as a second decoder, is left out: a plain network loads them.

    Args:
        network: the student (not its DDP wrapper).
        run_dir: folder of the run.
        ckpt_dir: folder of the bundle's weights; the folder of the run where a run has weights of its own only.

    Returns:
        Path of the bundle's weights.
    """
    weights = plain_weights(network)
    written, current = Path(run_dir, "model.pt"), Path(ckpt_dir, "model.pt")
    write_tensors(written, weights)
    if current.resolve() == written.resolve():
        return str(written)
    if current.is_file():
        kept = current.parent / "replaced" / f"model_{digest(current)[:12]}.pt"
        if not kept.is_file():
            with atomically(kept) as unfinished:
                shutil.copyfile(current, unfinished)
        logger.info("Kept the former weights as %s", kept)
    with atomically(current) as unfinished:
        shutil.copyfile(written, unfinished)
    return str(current)
