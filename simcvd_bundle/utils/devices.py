"""What a process computes on: names for people, and the line of the log that says so."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any

import torch

from simcvd_bundle.utils.precision import chosen_precision

logger = logging.getLogger(__name__)


def hardware(device: torch.device | str) -> str:
    """Name of the GPU, or of the processor for another device."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else processor()


def processor() -> str:
    """Name of the processor."""
    information = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def log_device(task: str, engine: Any) -> None:
    """Say on what and how an engine computes, and on CPU when torch sees no GPU, which it keeps to itself.

    Args:
        task: such as ``"Training"``.
        engine: a trainer or evaluator of MONAI; one of our inferers knows the precision of its networks.

    Raises:
        ValueError: when the device cannot compute in this precision.
    """
    device = torch.device(engine.state.device)
    precision = chosen_precision(device.type, getattr(engine.inferer, "precision", "float32"))
    blind = device.type == "cpu" and not torch.cuda.is_available()
    note = f"; torch {torch.__version__} sees no GPU" if blind else ""
    logger.info("%s on %s (%s) in %s%s.", task, device, hardware(device), precision, note)
