"""The rules by which ``init`` chooses orientation, spacing, patch, network and normalisation (docs/own_data.md)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simcvd_bundle.data.foreground import one_piece

LEVELS = 4
"""Steps down of the V-Net."""
SAME_SPACING = 0.05
"""Relative difference from the median up to which spacings count as equal."""
THICK = 3.0
"""Thickest over thinnest axis from which slices count as thick (nnU-Net's threshold)."""
NEAR = 2.0
"""Ratio of spacings up to which an axis is convolved and halved together with the finest one (nnU-Net's)."""
LEAST = 8
"""Voxels that an axis of the patch needs to be halved: 4 remain (nnU-Net's least bottleneck)."""
CT_AIR = -500.0
"""A scan of integers that goes below is CT in Hounsfield units: air is -1000, while MRI is not negative."""
CLIP_PERCENTILES = (0.5, 99.5)
"""Of the foreground's intensities: the range of a CT (nnU-Net's)."""
LITTLE_FOREGROUND = 0.05
"""Mean fraction of a class in the labelled scans below which patches are drawn around it: on the left atrium (3.6 to 19
% of the voxels) random ones find the organ, of the parts of a heart in whole slices (1 to 2 %) too few do."""
FOREGROUND_PROB = 0.5
"""How many of the labelled patches then are (tried on ACDC)."""
MUCH_ZERO = 0.25
"""Fraction of voxels that are exactly 0 from which they count as masked out (nnU-Net's, by volume of the crop)."""

Triple = tuple[float, ...]


def choose_orientation(axcodes: Sequence[str], spacings: Sequence[Triple]) -> tuple[str | None, str]:
    """One orientation for all scans, with thick slices along the last axis, where SimCVD contrasts slices.

    Args:
        axcodes: directions of the axes of each scan, such as ``RAS``.
        spacings: voxel size in mm of each scan.

    Returns:
        The orientation to turn to, ``None`` if all scans have it, and the reason.
    """
    common = Counter(axcodes).most_common(1)[0][0]
    median = np.median([reorder(s, code, common) for s, code in zip(spacings, axcodes, strict=True)], axis=0)
    thick = int(np.argmax(median))
    target = common
    if thick != 2 and median[thick] >= THICK * np.sort(median)[1]:
        target = common.replace(common[thick], "") + common[thick]
    if set(axcodes) == {target}:
        return None, f"all {target}: kept"
    counts = ", ".join(f"{number} {code}" for code, number in Counter(axcodes).most_common())
    why = "the most frequent" if target == common else "thick slices along the last axis"
    return target, f"{counts}: all are turned to {target} ({why})"


def reorder(values: Sequence[float], source: str, target: str) -> tuple[float, ...]:
    """Values by axis of orientation ``source`` in the order of the axes of ``target``; signs do not matter."""
    letters = {letter: axis for axis, pair in enumerate(("RL", "AP", "SI")) for letter in pair}
    axes = [letters[code] for code in source]
    return tuple(values[axes.index(letters[code])] for code in target)


def choose_spacing(spacings: Sequence[Triple]) -> tuple[list[float] | None, str]:
    """Spacing to resample to: none if all are equal, else the median of each axis, for thick slices a finer one.

    Args:
        spacings: voxel size in mm of each scan, all in one orientation.

    Returns:
        Millimetres by axis or ``None``, and the reason.
    """
    table = np.array(spacings)
    median = np.median(table, axis=0)
    if (np.abs(table / median - 1) <= SAME_SPACING).all():
        unknown = "; 1 x 1 x 1 mm often means that the headers do not know" if (table == 1).all() else ""
        return None, f"equal within {100 * SAME_SPACING:.0f} %: nothing is resampled{unknown}"
    target, why = median.copy(), "the median"
    thick = int(np.argmax(median))
    if median[thick] >= THICK * np.sort(median)[1]:
        target[thick] = max(float(np.percentile(table[:, thick], 10)), float(np.sort(median)[1]))
        why += ", of the thick axis the 10th percentile"
    rounded = [float(f"{size:.4g}") for size in target]
    low, high = (" x ".join(f"{size:g}" for size in row.round(3)) for row in (table.min(0), table.max(0)))
    return rounded, f"{low} to {high} mm: resampled to {' x '.join(f'{size:g}' for size in rounded)} ({why})"


def choose_network(patch: Sequence[int], spacing: Triple) -> tuple[list[list[int]], list[list[int]]]:
    """Strides of the steps down and kernels of the levels, by axis.

    An axis is halved while its voxels are at most twice as long as the shortest at that level and the patch has at
    least 8 along it. It is convolved (3 instead of 1) from the level on where that ratio holds.

    Args:
        patch: voxels.
        spacing: voxel size in mm.

    Returns:
        Four strides and five kernels.
    """
    sizes, lengths = list(patch), list(spacing)
    strides: list[list[int]] = []
    kernels: list[list[int]] = []
    for level in range(LEVELS + 1):
        near = [length <= NEAR * min(lengths) for length in lengths]
        before = kernels[-1] if kernels else [1, 1, 1]
        kernels.append([3 if now or was == 3 else 1 for now, was in zip(near, before, strict=True)])
        if level < LEVELS:
            strides.append([2 if ok and size >= LEAST else 1 for ok, size in zip(near, sizes, strict=True)])
            sizes = [math.ceil(size / step) for size, step in zip(sizes, strides[-1], strict=True)]
            lengths = [length * step for length, step in zip(lengths, strides[-1], strict=True)]
    return strides, kernels


def choose_patch(shape: Sequence[float], spacing: Triple, max_voxels: int) -> list[int]:
    """Patch: the median scan, shrunk where it is longest in mm until it fits, square in the plane, divisible.

    Args:
        shape: median voxels of the scans.
        spacing: voxel size in mm.
        max_voxels: voxels of a patch at most.

    Returns:
        Voxels by axis, multiples of the product of the network's strides.

    Raises:
        ValueError: when ``max_voxels`` is too small for any patch.
    """
    side, depth = (math.ceil(round(size, 2)) for size in (max(shape[:2]), shape[2]))  # affines are rounded
    while True:
        strides = choose_network((side, side, depth), spacing)[0]
        step = max(math.prod(stride[axis] for stride in strides) for axis in (0, 1))
        step_depth = math.prod(stride[2] for stride in strides)
        side, depth = step * math.ceil(side / step), step_depth * math.ceil(depth / step_depth)
        if side * side * depth <= max_voxels:
            return [side, side, depth]
        if (side * max(spacing[:2]) >= depth * spacing[2] and side > step) or depth <= step_depth:
            side -= step
        else:
            depth -= step_depth
        if side < 1:
            raise ValueError(f"max_patch_voxels {max_voxels} is too few: give some 100000 or more.")


def choose_normalization(
    samples: Sequence[np.ndarray], foreground: np.ndarray, in_channels: int
) -> tuple[dict[str, Any] | None, str]:
    """Normalisation by what the intensities look like.

    Args:
        samples: sampled voxels of each scan (first channel).
        foreground: voxels inside the labels, of all labelled scans.
        in_channels: channels of a scan.

    Returns:
        Content of the id ``normalize``, ``None`` for its default, and the reason.
    """
    ct = [bool((sample == sample.round()).all() and sample.min() <= CT_AIR) for sample in samples]
    if in_channels == 1 and np.mean(ct) > 0.5 and len(foreground):
        low, high = (float(value) for value in np.percentile(foreground, CLIP_PERCENTILES))
        inside = foreground.clip(low, high)
        mean, std = float(inside.mean()), max(float(inside.std()), 1e-3)
        content = {
            "_target_": "ScaleIntensityRanged", "keys": "image", "a_min": round(low, 1), "a_max": round(high, 1),
            "b_min": round((low - mean) / std, 4), "b_max": round((high - mean) / std, 4), "clip": True,
        }  # fmt: skip
        return content, (
            f"CT ({sum(ct)} of {len(ct)} scans hold integers down to {CT_AIR:g} or less): clipped to "
            f"{low:.0f} to {high:.0f}, the 0.5 and 99.5 percentiles inside the labels, whose mean {mean:.0f} and "
            f"standard deviation {std:.0f} become 0 and 1"
        )
    zero = float(np.mean([(sample == 0).mean() for sample in samples]))
    if zero > MUCH_ZERO:
        content = {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True, "nonzero": True}
        return content, f"no CT, {100 * zero:.0f} % of the voxels are 0: each scan z-scored over its other voxels"
    return None, "no CT: each scan (and channel) z-scored"


def choose_one_piece(pieces: Sequence[Mapping[int, float]], values: Sequence[int]) -> tuple[list[int], str]:
    """Classes of which masks keep the largest piece: those that are one piece in every label.

    Args:
        pieces: share of each label value's voxels in its largest piece, of each labelled scan that trains.
        values: the label values other than 0, in the order of the classes.

    Returns:
        Content of the id ``one_piece_classes``, and the reason.
    """
    classes = [values.index(value) + 1 for value in one_piece(pieces)]
    if not classes:
        return [], "no class is one piece in every label: masks keep all pieces"
    names = ", ".join(str(values[index - 1]) for index in classes)
    return classes, f'one piece in every label: {names}; masks keep the largest (--one_piece_classes "[]": all)'


def choose_foreground_prob(values: Sequence[Mapping[int, int]]) -> tuple[float, str]:
    """How often a labelled patch is drawn around a voxel of a class, by the class that fills least.

    Args:
        values: number of voxels by label value of each labelled scan that trains; 0 is background.

    Returns:
        Content of the id ``foreground_prob``, and the reason.
    """
    shares = [{value: count / sum(scan.values()) for value, count in scan.items()} for scan in values]
    classes = {value for scan in shares for value in scan} - {0}
    least = min((float(np.mean([scan.get(value, 0) for scan in shares])) for value in classes), default=1.0)
    text = f"the smallest class fills {100 * least:.2g} % of a labelled scan on average"
    if least < LITTLE_FOREGROUND:
        return (
            FOREGROUND_PROB,
            f"{text}: {100 * FOREGROUND_PROB:.0f} % of the labelled patches around a voxel of a class",
        )
    return 0, f"{text}: labelled patches lie anywhere"
