"""What the overlay sets because of geometry and intensities, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simcvd_bundle.commands.init import rules
from simcvd_bundle.data.reading import Grid


def plan(
    grids: Sequence[Grid],
    samples: Sequence[np.ndarray],
    foreground: np.ndarray,
    in_channels: int,
    max_voxels: int,
    asked: Sequence[float] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the overlay sets because of the geometry and intensities, and why, by topic."""
    codes, spacings = [grid.axcodes for grid in grids], [grid.spacing for grid in grids]
    orientation, why_orientation = rules.choose_orientation(codes, spacings)
    turned = orientation or codes[0]
    spacings = [rules.reorder(s, code, turned) for s, code in zip(spacings, codes, strict=True)]
    shapes = [rules.reorder(grid.shape, code, turned) for grid, code in zip(grids, codes, strict=True)]
    spacing, why_spacing = rules.choose_spacing(spacings)
    if asked is not None:
        if len(asked) != 3 or min(asked) <= 0:
            raise ValueError(f"--spacing must be three lengths in mm, got {asked}.")
        spacing = [float(length) for length in asked]
        why_spacing = f"to {' x '.join(f'{length:g}' for length in spacing)} mm, as asked for"
    final = tuple(spacing or np.median(spacings, axis=0).tolist())
    extents = np.array(shapes) * np.array(spacings) / final if spacing else np.array(shapes)
    patch = rules.choose_patch(np.median(extents, axis=0).tolist(), final, max_voxels)
    strides, kernels = rules.choose_network(patch, final)
    normalize, why_normalize = rules.choose_normalization(samples, foreground, in_channels)
    smaller = int((extents.round() < patch).any(axis=1).sum())
    isotropic = all(step == [2, 2, 2] for step in strides) and all(kernel == [3, 3, 3] for kernel in kernels)
    square = final[0] / final[1] < 1.1 and final[1] / final[0] < 1.1
    millimetres = " x ".join(f"{n * size:.0f}" for n, size in zip(patch, final, strict=True))
    overlay = {
        "orientation": orientation, "spacing": spacing, "normalize": normalize, "patch_size": patch,
        "strides": None if isotropic else strides, "kernel_sizes": None if isotropic else kernels,
        "rotation_prob": None if square else 0,
    }  # fmt: skip
    reasons = {
        "orientation": why_orientation,
        "resampling": why_spacing,
        "normalise": why_normalize,
        "patch": f"{' x '.join(map(str, patch))} voxels, {millimetres} mm (at most {max_voxels} voxels); "
        f"{smaller} scans are smaller and zero-padded",
        "network": "the paper's" if isotropic else
        "strides " + " ".join("x".join(map(str, s)) for s in strides) + ", kernels "
        + " ".join("x".join(map(str, k)) for k in kernels),
        **({} if square else {"rotation": "none: voxels are not square in the plane"}),
    }  # fmt: skip
    return {key: value for key, value in overlay.items() if value is not None}, reasons
