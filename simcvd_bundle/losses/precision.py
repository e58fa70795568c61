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
    def wrapper(self: Any, *args: Tensor, **kwargs: Tensor) -> Tensor:
        device = next(iter((*args, *kwargs.values()))).device.type
        with torch.autocast(device, enabled=False):
            return forward(self, *map(_single, args), **{name: _single(tensor) for name, tensor in kwargs.items()})

    return wrapper


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
