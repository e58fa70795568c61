"""The grid of a DICOM series: its slices put in order, or the reason why they are no regular grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simcvd_bundle.data.reading.dicom_files import Frame
from simcvd_bundle.data.reading.grid import GRID_TOLERANCE, Grid

DIRECTION_TOLERANCE = 1e-3
"""Largest error of the lengths and of the right angle of the directions of columns and rows: texts of three digits."""


def arrange(folder: Path, frames: Sequence[Frame], columns: int, rows: int) -> tuple[list[Frame], Grid]:
    """Order slices along their normal, as ITK does, and compute their common grid.

    A constant shift from slice to slice (gantry tilt) becomes the shear of the affine.

    Args:
        folder: of the series.
        frames: its slices.
        columns: pixels of a slice in x.
        rows: in y.

    Returns:
        The slices in order and the grid of the axes columns, rows, slices.

    Raises:
        ValueError: when the slices differ in orientation or pixel spacing, lie twice at one place, or are not equally
            spaced on a line, all by more than ``GRID_TOLERANCE`` voxels; names folder, files and places.
    """
    first = frames[0]
    axes = _axes(folder, first)
    _check_alike(folder, frames, max(columns, rows))
    frames = sorted(frames, key=lambda frame: float(frame.position @ axes[2]))
    first, last = frames[0], frames[-1]
    if len(frames) > 1:
        step = (last.position - first.position) / (len(frames) - 1)
        _check_not_doubled(folder, frames, axes[2])
    elif first.thickness:
        step = first.thickness * axes[2]
    else:
        raise ValueError(
            f"{folder} holds one slice, {first.name}, whose thickness is unknown (SpacingBetweenSlices or "
            "SliceThickness): add one of them to its header."
        )
    lps = np.eye(4)
    lps[:3] = np.column_stack([axes[0] * first.spacing[0], axes[1] * first.spacing[1], step, first.position])
    try:
        grid = Grid((columns, rows, len(frames)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    _check_regular(folder, frames, lps, axes[2])
    return frames, grid


def _axes(folder: Path, frame: Frame) -> np.ndarray:
    """Unit vectors of columns, rows and normal, made exactly orthogonal."""
    x, y = frame.orientation
    error = np.abs([np.linalg.norm(x) - 1, np.linalg.norm(y) - 1, x @ y]).max()
    if error > DIRECTION_TOLERANCE:
        raise ValueError(
            f"{folder}: the ImageOrientationPatient of {frame.name}, {frame.orientation.ravel().tolist()}, is not made "
            "of two unit vectors at a right angle: export the series again or mend its headers."
        )
    normal = np.cross(x, y) / np.linalg.norm(np.cross(x, y))
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(normal, x), normal])


def _check_alike(folder: Path, frames: Sequence[Frame], pixels: int) -> None:
    """Orientation and pixel spacing may differ by what moves no pixel noticeably."""
    first = frames[0]
    for frame in frames:
        turned = np.abs(frame.orientation - first.orientation).max()
        scaled = np.abs(frame.spacing / first.spacing - 1).max()
        if max(turned, scaled) * (pixels - 1) > GRID_TOLERANCE:
            what, one, other = (
                ("orientations", first.orientation.ravel(), frame.orientation.ravel())
                if turned > scaled
                else ("pixel spacings", first.spacing, frame.spacing)
            )
            raise ValueError(
                f"{folder} holds slices of different {what}: {first.name} has {one.round(6).tolist()} and {frame.name} "
                f"{other.round(6).tolist()}. Put each stack of slices into a folder of its own."
            )


def _check_not_doubled(folder: Path, frames: Sequence[Frame], normal: np.ndarray) -> None:
    places = np.array([frame.position for frame in frames]) @ normal
    steps = np.diff(places)
    doubled = np.flatnonzero(steps <= GRID_TOLERANCE * steps.mean())
    if len(doubled) == 0:
        return
    one, other = frames[doubled[0]], frames[doubled[0] + 1]
    reason = (
        "the same image twice, remove one of the files"
        if one.uid == other.uid and one.path != other.path
        else "several volumes (phases, echoes, repetitions) or a repeated slice, keep one volume in the folder"
    )
    raise ValueError(
        f"{folder} holds {len(doubled)} of its {len(frames)} slices at the place of another one, first {one.place} and "
        f"{other.name}: {reason}."
    )


def _check_regular(folder: Path, frames: Sequence[Frame], lps: np.ndarray, normal: np.ndarray) -> None:
    """Compare all positions with the line from the first to the last."""
    line = lps[:3, 3] + np.arange(len(frames))[:, None] * lps[:3, 2]
    positions = np.array([frame.position for frame in frames])
    distances = np.linalg.norm(np.linalg.solve(lps[:3, :3], (positions - line).T), axis=0)  # voxels
    if distances.max() <= GRID_TOLERANCE:
        return
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps))
    missing = np.rint(steps / usual) - 1
    odd = np.flatnonzero(np.abs(steps / usual - 1) > GRID_TOLERANCE)
    if len(odd) and missing[odd].all() and (np.abs(steps / usual - missing - 1) <= GRID_TOLERANCE).all():
        gaps = "; ".join(
            f"{missing[k]:.0f} between {frames[k].place} and {frames[k + 1].place}" for k in odd[:3]
        ) + ("; ..." if len(odd) > 3 else "")  # fmt: skip
        raise ValueError(
            f"{folder} has a gap, slices are missing: {gaps}, where others are {usual:g} mm apart. Fetch the whole "
            "series again, or move the part to be left out."
        )
    if len(odd):
        k = int(np.abs(np.diff(steps)).argmax()) + 1
        raise ValueError(
            f"{folder} has slices at uneven distances of {steps.min():g} to {steps.max():g} mm: {steps[k - 1]:g} mm "
            f"before and {steps[k]:g} mm from {frames[k].place} to {frames[k + 1].place}. Reconstruct the series with "
            "equal distances, or move the slices of each distance into a folder of their own."
        )
    k = int(distances.argmax())
    raise ValueError(
        f"{folder} has slices that do not lie on a straight line with equal steps: {frames[k].place} is "
        f"{np.linalg.norm((positions - line)[k]):.3g} mm off it. Resample the series to a regular grid first."
    )
