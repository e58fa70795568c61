"""Losses leave low precision: logarithms and dot products over many terms need float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def in_float32(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorate a loss's ``forward``: floating tensors become float32 and autocast is off inside."""

    @wraps(forward)
    def wrapper(self: Any, *tensors: Tensor) -> Tensor:
        with torch.autocast(tensors[0].device.type, enabled=False):
            return forward(self, *(t.float() if t.is_floating_point() else t for t in tensors))

    return wrapper
