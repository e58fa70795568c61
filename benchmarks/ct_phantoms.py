"""A folder of CT-like phantoms with one small object, for the own-data workflow: docs/own_data.md.

Scans of 200 x 200 x 150 voxels of 1.5 mm in Hounsfield units: a body with fat, spine, two organs and vessels. The
object is a dark lesion of 0.1 % of the voxels in one of the organs; lesions of the same size and density lie elsewhere,
so that its surroundings have to be seen. All have a label; ``init --num_labeled`` hides them.

    python benchmarks/ct_phantoms.py --output_dir ct
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

SHAPE, SPACING = (200, 200, 150), 1.5
FAT, SOFT_TISSUE, ORGAN, OTHER_ORGAN, VESSEL, SPINE, LESION = -100, 40, 100, 140, 160, 350, 55
NOISE = 12.0
"""Standard deviation in Hounsfield units."""


def ellipsoid(centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Mask of ``SHAPE``; an infinite radius makes a cylinder."""
    grids = np.ogrid[tuple(map(slice, SHAPE))]
    return np.asarray(sum(((grid - c) / r) ** 2 for grid, c, r in zip(grids, centre, radii, strict=True))) < 1


def phantom(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image in Hounsfield units, int16, and label, uint8."""

    def near(centre: Sequence[float], spread: float) -> np.ndarray:
        return np.asarray(centre) + random.uniform(-spread, spread, 3)

    def lesion(centre: Sequence[float], spread: float) -> np.ndarray:
        return ellipsoid(near(centre, spread), random.uniform(9, 13, 3))

    image = np.full(SHAPE, -1000.0)
    image[ellipsoid((100, 100, 75), (*random.uniform(82, 95, 2), np.inf))] = FAT
    image[ellipsoid((100, 100, 75), (*random.uniform(74, 80, 2), np.inf))] = SOFT_TISSUE
    image[ellipsoid((*near((100, 155, 0), 4)[:2], 75), (12, 12, np.inf))] = SPINE
    organ, other = near((65, 95, 80), 10), near((140, 95, 70), 10)
    image[ellipsoid(organ, random.uniform(30, 40, 3))] = ORGAN
    image[ellipsoid(other, random.uniform(24, 30, 3))] = OTHER_ORGAN
    for _ in range(3):
        image[ellipsoid((*near(organ, 25)[:2], 75), (4, 4, 60))] = VESSEL
    for centre in (other, near((100, 50, 75), 20)):
        image[lesion(centre, 8)] = LESION
    label = lesion(organ, 14)
    image[label] = LESION
    noise = gaussian_filter(random.standard_normal(SHAPE), 1)
    image = gaussian_filter(image, 0.7) + NOISE * noise / noise.std()
    return image.round().astype(np.int16), label.astype(np.uint8)


def main() -> None:
    """Write ``images/`` and ``labels/``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    random = np.random.default_rng(chosen.seed)
    affine = np.diag([SPACING, SPACING, SPACING, 1])
    for name in ("images", "labels"):
        Path(chosen.output_dir, name).mkdir(parents=True, exist_ok=True)
    for number in range(chosen.scans):
        image, label = phantom(random)
        file = f"scan_{number:02d}.nii.gz"
        nib.save(nib.Nifti1Image(image, affine), Path(chosen.output_dir, "images", file))
        nib.save(nib.Nifti1Image(label, affine), Path(chosen.output_dir, "labels", file))


if __name__ == "__main__":
    main()
