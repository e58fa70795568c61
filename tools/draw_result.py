"""Draw docs/images/left_atrium.png: truth and prediction of the shipped network on a case whose label it never saw.

The case is the median one by Dice of models/record/per_case.csv: neither the best nor the worst of the 64 training
cases whose labels were hidden. Repeat it when the weights change.

    python tools/draw_result.py DATASET_DIR
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from simcvd_bundle import Segmenter  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "left_atrium.png"
TRUTH, PREDICTION = "#56B4E9", "#E69F00"
LEGEND = 0.3
"""Height of the legend's strip, in inches."""
PARTS = (0.25, 0.5, 0.75)
"""Where the slices lie between the lowest and the highest of the atrium."""


def median_case() -> str:
    """Name of the case with the median Dice (the upper one of the two in the middle)."""
    with (ROOT / "models" / "record" / "per_case.csv").open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["dice"]))
    return rows[len(rows) // 2]["case"]


def draw(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, file: Path) -> None:
    """Write axial slices of a case, arrays HWD, with the contours of both masks."""
    where = np.flatnonzero(truth.any((0, 1)))
    low, high = np.percentile(image, [1, 99.5])
    height = 3 * image.shape[1] / image.shape[0]
    figure = Figure(figsize=(9, height + LEGEND), facecolor="black")
    panels = figure.subplots(1, len(PARTS), gridspec_kw={"wspace": 0.01})
    figure.subplots_adjust(left=0, right=1, bottom=LEGEND / (height + LEGEND), top=1)
    for axes, part in zip(panels, PARTS, strict=True):
        index = round(where[0] + part * (where[-1] - where[0]))
        axes.set_axis_off()
        axes.imshow(image[..., index].T, cmap="gray", vmin=low, vmax=high)
        for mask, colour, line in ((prediction, PREDICTION, "solid"), (truth, TRUTH, "dashed")):
            axes.contour(mask[..., index].T, levels=[0.5], colors=[colour], linestyles=[line], linewidths=[1.6])
    lines = [Line2D([], [], color=PREDICTION), Line2D([], [], color=TRUTH, linestyle="dashed")]
    figure.legend(
        lines, ["prediction", "truth"], ncols=2, loc="lower center", frameon=False, labelcolor="white", fontsize=9
    )
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=100)


def main() -> None:
    """Segment the case, draw it, say its Dice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path, help="prepared left atrium (images/CASE.nii.gz, labels/CASE.nii.gz)")
    folder = parser.parse_args().dataset_dir
    case = median_case()
    network = Segmenter(
        ROOT / "models" / "model.pt", overlays=[ROOT / "configs" / "data_la.json"], inference_mode="window"
    )
    prediction = network.predict(folder / "images" / f"{case}.nii.gz").mask[0].numpy() > 0
    image, label = (nib.load(folder / kind / f"{case}.nii.gz").get_fdata() for kind in ("images", "labels"))
    draw(image, label > 0, prediction, PICTURE)
    dice = 2 * (prediction & (label > 0)).sum() / (prediction.sum() + (label > 0).sum())
    print(f"Wrote {PICTURE}: case {case}, Dice {100 * dice:.1f} %")


if __name__ == "__main__":
    main()
