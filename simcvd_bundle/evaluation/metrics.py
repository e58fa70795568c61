"""Overlap and surface-distance metrics of one binary mask pair, in the conventions of medpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance
from monai.utils.type_conversion import convert_to_numpy

OVERLAP_METRICS = ("dice", "jaccard")
DISTANCE_METRICS = ("hd95", "asd", "assd")
METRICS = (*OVERLAP_METRICS, *(f"{name}_{unit}" for name in DISTANCE_METRICS for unit in ("voxel", "mm")))


def case_metrics(pred: Any, label: Any, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Measure one binary prediction against its ground truth.

    With P and L the two surfaces and d(A, B) the Euclidean distances from every voxel of surface A to the nearest voxel
    of surface B:

    - ``dice`` = 2 |pred & label| / (|pred| + |label|) and ``jaccard`` = |pred & label| / |pred | label|, in [0, 1].
    - ``hd95`` = 95th percentile (linear interpolation) of d(P, L) and d(L, P) pooled, as ``medpy.metric.binary.hd95``.
      MONAI's Hausdorff distance takes the larger of the two percentiles instead.
    - ``asd`` = mean d(P, L), prediction to truth only, as ``medpy.metric.binary.asd``: what the semi-supervised
      segmentation papers print as ASD, whatever their texts say.
    - ``assd`` = (mean d(P, L) + mean d(L, P)) / 2, as ``medpy.metric.binary.assd`` up to medpy 0.4. medpy 0.5 and MONAI
      average the pooled distances instead (loli/medpy#108), which weighs the larger surface more.

    A surface is the mask without its erosion by the 6-neighbourhood (4 in 2D); what lies beyond the volume is
    background, so that mask voxels at the border of the volume are surface. Distances are between voxel centres.

    Empty masks:

    - One of the two is empty: ``dice`` = ``jaccard`` = 0 and every distance is the diagonal of the volume (its extent,
      so larger than any distance between two of its voxels): finite, and never a good score.
    - Both are empty: every metric is NaN, as there is nothing to measure; leave such a pair out of means and count it.

    Args:
        pred: predicted mask, numpy array or torch tensor (any device), HWD or HW; any dtype, non-zero is foreground.
        label: ground-truth mask, like ``pred`` and of the same shape.
        spacing_mm: voxel size in mm along each axis of the masks.

    Returns:
        The keys of ``METRICS`` in that order: ``dice``, ``jaccard``, and each distance as ``*_voxel`` (spacing 1) and
        ``*_mm``.

    Raises:
        ValueError: when the shapes differ, or when ``spacing_mm`` is not one positive number per axis.
    """
    p, y = (np.asarray(convert_to_numpy(mask), dtype=bool) for mask in (pred, label))
    if p.shape != y.shape:
        raise ValueError(f"pred and label must have the same shape, got {p.shape} and {y.shape}.")
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (p.ndim,) or not (spacing > 0).all():
        raise ValueError(f"spacing_mm must be {p.ndim} positive numbers, got {spacing_mm}.")

    num_pred, num_label, num_both = (int(np.count_nonzero(mask)) for mask in (p, y, p & y))
    if num_pred == 0 and num_label == 0:
        return dict.fromkeys(METRICS, float("nan"))
    metrics = {
        "dice": 2 * num_both / (num_pred + num_label),
        "jaccard": num_both / (num_pred + num_label - num_both),
    }
    # crops to the box of both masks plus 1 voxel, zero-padded where that leaves the volume: the same surfaces, sooner
    surfaces = get_mask_edges(p, y) if num_pred and num_label else None
    for unit, scale in (("voxel", np.ones(p.ndim)), ("mm", spacing)):
        if surfaces is None:
            values = [float(np.linalg.norm(p.shape * scale))] * len(DISTANCE_METRICS)
        else:
            values = _surface_metrics(surfaces[0], surfaces[1], scale)
        metrics.update((f"{name}_{unit}", value) for name, value in zip(DISTANCE_METRICS, values, strict=True))
    return {name: metrics[name] for name in METRICS}


def _surface_metrics(pred_surface: Any, label_surface: Any, spacing: np.ndarray) -> list[float]:
    """The values of ``DISTANCE_METRICS`` for two non-empty boolean surface masks, in the unit of ``spacing``."""
    # MONAI returns float32; means over 10^4 values are taken in float64
    to_label = np.asarray(get_surface_distance(pred_surface, label_surface, spacing=spacing), dtype=np.float64)
    to_pred = np.asarray(get_surface_distance(label_surface, pred_surface, spacing=spacing), dtype=np.float64)
    hd95 = float(np.percentile(np.concatenate([to_label, to_pred]), 95))
    asd = float(to_label.mean())
    return [hd95, asd, (asd + float(to_pred.mean())) / 2]
