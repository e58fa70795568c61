"""Numerical precision: autocast of the networks, and float32 for what needs it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Abilities of a processor, as torch names them, each of which makes bfloat16 faster than float32."""


def known_precision(precision: str) -> str:
    """Return ``precision`` if it is ``"auto"`` or one of ``PRECISIONS``, else raise ``ValueError``."""
    known = ("auto", *PRECISIONS)
    if precision not in known:
        raise ValueError(f"precision must be one of {', '.join(known)}, got {precision!r}.")
    return precision


def native_bfloat16(device: str) -> tuple[bool, str]:
    """Whether a type of device computes bfloat16 itself, and why one knows, for the log.

    Args:
        device: type of the device, such as ``"cpu"`` or ``"cuda"``.

    Returns:
        True on processors with AVX512-bf16 or AMX and on GPUs that do not emulate it (Ampere and later).
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        computes = "computes" if native else "does not compute"
        return native, f"{torch.cuda.get_device_name()} {computes} bfloat16 natively"
    if device == "cpu":
        abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        found = [name for name in NATIVE_BFLOAT16 if abilities.get(name)]
        return bool(found), f"the processor has {' and '.join(found) or 'none of ' + ', '.join(NATIVE_BFLOAT16)}"
    return False, f"bfloat16 is not tried on {device}"


@cache
def chosen_precision(device: str, precision: str) -> str:
    """The precision that ``precision`` is on a type of device; the log says once why, or that it is emulated.

    Args:
        device: type of the device, such as ``"cpu"`` or ``"cuda"``.
        precision: see ``known_precision``; ``"auto"`` is bfloat16 where it is computed natively, else float32.

    Raises:
        ValueError: for bfloat16 on a GPU that only emulates it; cuDNN has no such convolutions there.
    """
    if precision not in ("auto", "bfloat16"):
        return precision
    native, reason = native_bfloat16(device)
    if precision == "auto":
        precision = "bfloat16" if native else "float32"
        logger.info("Precision auto is %s: %s.", precision, reason)
    elif not native and device == "cuda":
        raise ValueError(
            f"{torch.cuda.get_device_name()} has no convolutions in bfloat16 (GPUs have them from Ampere on): "
            "use --precision float16, or float32."
        )
    elif not native and device == "cpu":
        logger.warning(
            "bfloat16 is emulated here, many times slower than float32: %s. Use --precision float32, or auto.", reason
        )
    return precision


def autocast(inputs: Tensor, precision: str) -> torch.autocast:
    """Autocast context of ``precision``, see ``chosen_precision``, on the device of ``inputs``."""
    device = inputs.device.type
    chosen = chosen_precision(device, precision)
    return torch.autocast(device, PRECISIONS[chosen], enabled=chosen != "float32")


class _Singles(Mapping[str, Tensor]):
    """Entries of which floating ones become float32 when they are taken."""

    def __init__(self, entries: Mapping[str, Tensor]) -> None:
        self.entries = entries

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        return entry.float() if entry.is_floating_point() else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def in_float32(forward: Callable[[Any, Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]) -> Callable[..., Tensor]:
    """Decorate the ``forward(pred, target)`` of a loss: it reads float32, and autocast is off inside.

    Logarithms and dot products over many terms need it.
    """

    @wraps(forward)
    def wrapper(self: Any, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        device = next(iter(pred.values())).device.type if pred else "cpu"
        with torch.autocast(device, enabled=False):
            return forward(self, _Singles(pred), _Singles(target))

    return wrapper
