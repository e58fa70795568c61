"""What ``init`` prints: what was found, what was assumed, what was chosen and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from simcvd_bundle.commands.init.inspecting import Intensities
from simcvd_bundle.data.reading import Grid


def label_notes(
    intensities: Sequence[Intensities], labeled: Sequence[int], values: Sequence[int],
    classes: Sequence[str],
) -> list[str]:  # fmt: skip
    """How often and how large each class is, and how values map to classes."""
    notes = []
    for value, title in zip(values, classes, strict=True):
        shares = [100 * intensities[i].values[value] / sum(intensities[i].values.values()) for i in labeled]
        present = [share for share in shares if share > 0]
        notes.append(
            f"label {value} ({title}): in {len(present)} of {len(labeled)} labels, {min(present):.2g} to "
            f"{max(present):.2g} % of the voxels"
        )
    if values != list(range(1, len(values) + 1)):
        pairs = ", ".join(f"{value} -> {index}" for index, value in enumerate(values, 1))
        notes.append(f"label_values maps {pairs}; masks are written with the values of the files")
    return notes


def describe(
    grids: Sequence[Grid], intensities: Sequence[Intensities], reasons: dict[str, str], notes: Sequence[str],
    paths: Sequence[Path], in_channels: int, configs: Sequence[str],
) -> str:  # fmt: skip
    """The report as text."""
    spacings = Counter(" x ".join(f"{size:.3g}" for size in grid.spacing) for grid in grids)
    shapes = np.array([grid.shape for grid in grids])
    low, median, high = (" x ".join(f"{n:.0f}" for n in row) for row in
                         (shapes.min(0), np.median(shapes, axis=0), shapes.max(0)))  # fmt: skip
    shown = ", ".join(f"{size} ({n})" for size, n in spacings.most_common(4)) + (" ..." if len(spacings) > 4 else "")
    ranges = np.array([np.percentile(part.sample, [0, 0.5, 50, 99.5, 100]) for part in intensities])
    five = " / ".join(f"{value:.4g}" for value in np.median(ranges, axis=0))
    lines = {
        "scans": f"{len(grids)}, {in_channels} channel{'s' if in_channels > 1 else ''}",
        "shape": f"{low} to {high} voxels, median {median}",
        "spacing": f"{shown} mm",
        "intensity": f"{five} (minimum, 0.5, 50, 99.5 percentile, maximum; medians over the scans, sampled)",
    }
    found = "\n".join(f"{title:<12}{text}" for title, text in lines.items())
    chosen = "\n".join(f"{title:<12}{text}" for title, text in reasons.items())
    said = "\n".join(f"- {note}" for note in notes)
    files = ",".join(f"'{file}'" for file in (*(f"configs/{Path(name).name}" for name in configs), paths[1]))
    train = f'python -m monai.bundle run training --config_file "[{files}]"'
    return f"{found}\n{said}\nchosen\n{chosen}\nwritten     {paths[0]}\n            {paths[1]}\ntrain       {train}"
