"""What looks wrong in data that can be read: said with numbers, as only the user knows whether it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from simcvd_bundle.commands.init.finding import Scan
from simcvd_bundle.commands.init.inspecting import Intensities
from simcvd_bundle.data.reading import Grid

OTHER_SPACING = 1.5
"""Ratio of the median spacings from which unlabelled scans count as others than the labelled ones."""
OTHER_SCALE = 2.0
"""The same ratio of the ranges of intensities."""
SHIFT = 0.5
"""Part of the labelled scans' range by which both ends of another have moved: as CT without its offset of 1024 HU."""


def doubts(scans: Sequence[Scan], grids: Sequence[Grid], intensities: Sequence[Intensities]) -> list[str]:
    """Sentences about labels on one slice, foreground at the border, and unlabelled scans unlike the labelled ones."""
    return [*_labels(scans, intensities), *_others(scans, grids, intensities)]


def _labels(scans: Sequence[Scan], intensities: Sequence[Intensities]) -> Iterator[str]:
    labeled = [(scan, part) for scan, part in zip(scans, intensities, strict=True) if scan.label is not None]
    if len(labeled) == 1:
        yield f"only {labeled[0][0].label} is a label: the network sees one example, so look at every mask"
    single = [str(scan.label) for scan, part in labeled if any(s.sum() == 1 < len(s) for s in part.occupied)]
    if single:
        yield (
            f"{len(single)} of {len(labeled)} labels are on a single slice, {_some(single)}: the other slices count as "
            "background. If they hold the structure too, draw it there, or cut scan and label to the slice"
        )
    border = [str(scan.label) for scan, part in labeled if any(s[0] or s[-1] for s in part.occupied if len(s) > 1)]
    if border:
        yield (
            f"foreground touches the border of {len(border)} of {len(labeled)} labelled scans, {_some(border)}: it is "
            "trained as it is, cut off there"
        )


def _others(scans: Sequence[Scan], grids: Sequence[Grid], intensities: Sequence[Intensities]) -> Iterator[str]:
    known = np.array([scan.label is not None for scan in scans])
    if known.all() or not known.any():
        return
    sizes = np.array([sorted(grid.spacing) for grid in grids])
    if _apart(sizes[known], sizes[~known], OTHER_SPACING):
        ours, theirs = (
            " x ".join(f"{n:.3g}" for n in np.median(part, axis=0)) for part in (sizes[known], sizes[~known])
        )
        yield (
            f"all {(~known).sum()} unlabelled scans have another spacing than the labelled ones: {theirs} mm, not "
            f"{ours} mm (medians, shortest axis first). Masks may be poor where the network has seen no such label: "
            "label one of them, or leave them out"
        )
    ranges = np.array([np.percentile(part.sample, [0.5, 99.5]) for part in intensities])
    width = np.maximum(ranges[:, 1:] - ranges[:, :1], 1e-12)
    shift = np.abs(ranges - np.median(ranges[known], axis=0)).min(1)  # of the nearer end
    moved = shift[~known].min() > max(shift[known].max(), SHIFT * float(np.median(width[known])))
    if moved or _apart(width[known], width[~known], OTHER_SCALE):
        ours, theirs = (
            " to ".join(f"{n:.4g}" for n in np.median(part, axis=0)) for part in (ranges[known], ranges[~known])
        )
        yield (
            f"all {(~known).sum()} unlabelled scans have another intensity scale than the labelled ones: {theirs}, not "
            f"{ours} (0.5 and 99.5 percentile, medians). Z-scores undo factor and offset, but no other contrast, and a "
            "CT's range undoes neither: look whether they are of one kind"
        )


def _apart(ours: np.ndarray, theirs: np.ndarray, ratio: float) -> bool:
    """Whether along an axis all of theirs lie on one side of all of ours, and the medians differ by ``ratio``."""
    larger = (theirs.min(0) > ours.max(0)) & (np.median(theirs, axis=0) >= ratio * np.median(ours, axis=0))
    smaller = (theirs.max(0) < ours.min(0)) & (np.median(ours, axis=0) >= ratio * np.median(theirs, axis=0))
    return bool((larger | smaller).any())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
