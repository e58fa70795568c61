"""SimCVD: semi-supervised 3D segmentation as a MONAI bundle (You et al., IEEE TMI 2022, arXiv:2108.06227)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simcvd_bundle.api import Prediction, Segmenter, train

__version__ = "0.1.0"
__all__ = ["Prediction", "Segmenter", "train"]


def __getattr__(name: str) -> Any:
    """Import the Python API when it is first used: torch and MONAI take seconds."""
    if name in __all__:
        from simcvd_bundle import api

        return getattr(api, name)
    raise AttributeError(f"module 'simcvd_bundle' has no attribute {name!r}")
