"""Numerical precision: autocast of the networks, and float32 for what needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(inputs: Tensor, precision: str) -> torch.autocast:
    """Autocast context of ``precision`` on the device of ``inputs``."""
    return torch.autocast(inputs.device.type, PRECISIONS[precision], enabled=precision != "float32")


def known_precision(precision: str) -> str:
    """Return ``precision`` if it is one of ``PRECISIONS``, else raise ``ValueError``."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}.")
    return precision


def in_float32(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a loss's ``forward``: floating tensors become float32 and autocast is off inside.

    Logarithms and dot products over many terms need it.
    """

    @wraps(forward)
    def wrapper(self: Any, *args: Tensor, **kwargs: Tensor) -> Tensor:
        device = next(iter((*args, *kwargs.values()))).device.type
        with torch.autocast(device, enabled=False):
            return forward(self, *map(_single, args), **{name: _single(tensor) for name, tensor in kwargs.items()})

    return wrapper


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
