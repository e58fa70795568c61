"""Checks of a method before anything is built: its terms, their streams, its parts, and what it is combined with."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

PACKAGE = "simcvd_bundle."
NEEDED = {"loss", "stream", "weight"}


def check_method(config: Mapping[str, Any], configs: Path) -> None:
    """Refuse terms that are incomplete or read what is not there, unknown parts, and methods that exclude each other.

    Args:
        config: the merged config of a training.
        configs: folder of the overlays.

    Raises:
        ValueError: with the id, and what is known in its place.
    """
    for name, target in _targets(config):
        check_target(name, target)
    terms = config.get("loss", {}).get("terms", {})
    if "streams" in config["train"]:
        streams = {**config["train"]["streams"], **(config["train"]["inferer"].get("mixes") or {})}
    else:  # pretrain.json and classify.json have one stream of their own, and take no method
        own = "pretrain.json" if "pretraining" in config else "classify.json"
        streams = {term["stream"]: None for term in json.loads((configs / own).read_text())["loss"]["terms"].values()}
    for name, term in terms.items():
        if not isinstance(term, Mapping) or not NEEDED <= term.keys():
            whole = [other for other, entry in terms.items() if isinstance(entry, Mapping) and NEEDED <= entry.keys()]
            raise ValueError(
                f"loss::terms::{name} is no complete term (it needs {', '.join(sorted(NEEDED))}){_hint(name, whole)}."
            )
        for stream in ensure_tuple(term["stream"]):
            if stream not in streams:
                raise ValueError(f"loss::terms::{name}::stream is {stream!r}{_hint(stream, streams)}.")
            if _value(config, streams[stream]) == 0 and _value(config, term["weight"]) not in (0, None):
                raise ValueError(
                    f"The term {name} reads the stream {stream!r}, of which a batch has no patch: set the weight of "
                    f"the term to 0, or {stream}_batch_size to at least 1."
                )
    check_combination(config, {path.stem: json.loads(path.read_text()) for path in configs.glob("method_*.json")})


def check_target(name: str, target: str) -> None:
    """Raise ``ValueError`` when ``target``, the class of the id ``name``, is of our package and not there.

    Also when it cannot be imported, as what it needs is not installed.
    """
    module, _, part = target.rpartition(".")
    if not target.startswith(PACKAGE):
        return
    try:
        room = import_module(module)
    except ImportError as error:
        if error.name is None or not error.name.startswith(PACKAGE):
            raise ValueError(f"{name} is {target!r}, which needs a package that is missing: {error}.") from error
        room = None
    if not hasattr(room, part):
        raise ValueError(f"{name} is {target!r}, which there is not{_hint(part, getattr(room, '__all__', ()))}.")


def check_combination(config: Mapping[str, Any], overlays: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse two methods that set one id to different values, of which the config has the one or the other.

    A method takes part when all terms that it adds are in the config.

    Args:
        config: the merged config.
        overlays: contents of the method overlays by name.

    Raises:
        ValueError: with the two methods and the id.
    """
    terms = config["loss"]["terms"].keys()
    used = {
        name: dict(_settings(content))
        for name, content in sorted(overlays.items())
        if content.get("+loss::terms") and content["+loss::terms"].keys() <= terms
    }
    merged = ConfigParser(dict(config))
    for (one, its), (other, others) in combinations(used.items(), 2):
        for name in sorted(its.keys() & others.keys()):
            values = [its[name], others[name]]
            if values[0] != values[1] and (name not in merged or merged[name] in values):
                raise ValueError(
                    f"{one} and {other} exclude each other: both set {name}, to {json.dumps(values[0])} and "
                    f"{json.dumps(values[1])}. Name one of them, or set {name} yourself."
                )


def _settings(overlay: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Ids that an overlay sets; of what it extends the members. Lists that it extends exclude nothing."""
    for name, value in overlay.items():
        if not name.startswith("+"):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name[1:]}::{key}", member) for key, member in value.items())


def _targets(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    members = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        path = f"{name}::{key}" if name else str(key)
        if key == "_target_" and isinstance(member, str):
            yield path, member
        else:
            yield from _targets(member, path)


def _value(config: Mapping[str, Any], value: Any) -> Any:
    """A plain value, behind references to top-level ids; of expressions and objects ``None``."""
    while isinstance(value, str) and value.startswith("@"):
        value = config.get(value[1:])
    return value if isinstance(value, int | float) else None


def _hint(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}; there are: {', '.join(map(str, known)) or 'none'}"
