"""Embedded demo data of pre-training and classification: phantom subjects of three classes, two scans each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import create_test_image_3d

from simcvd_bundle.data.phantoms import SHAPE, SPACING_MM, made_once, write_datalist

SUBJECTS = {"training": 12, "validation": 6, "test": 6}
RADII = {"small": (4, 5), "medium": (7, 8), "large": (11, 12)}
"""Radii of the balls in voxels by class; their number makes the classes equal in foreground, about."""
BALLS = {"small": 24, "medium": 6, "large": 2}


def subject_phantoms(folder: str, seed: int = 0, shape: tuple[int, int, int] | None = None) -> str:
    """Make the phantom subjects in ``folder`` unless they are there, and return ``folder``.

    The two scans of a subject show the same balls (MONAI's ``create_test_image_3d``) with another contrast, noise and
    position. Its ``class`` is the size of the balls: ``small``, ``medium`` or ``large``. Every scan has a label, so the
    set serves segmentation too.

    Args:
        folder: where the set lies, ``dataset.json``, ``images/`` and ``labels/``.
        seed: seed of the generator.
        shape: voxels of a volume, at least 28 an axis; ``None`` for 64 x 64 x 48.

    Raises:
        FileExistsError: when ``folder`` exists without a ``dataset.json``: it is not ours to fill.
    """
    return made_once(folder, lambda scratch: _write(scratch, np.random.RandomState(seed), shape or SHAPE))


def _write(folder: Path, random: np.random.RandomState, shape: tuple[int, int, int]) -> None:
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    sections: dict[str, list[dict[str, Any]]] = {}
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for section, size in SUBJECTS.items():
        sections[section] = []
        for number in range(size):
            group = list(RADII)[number % len(RADII)]
            low, high = RADII[group]
            balls, mask = create_test_image_3d(
                *shape, num_objs=BALLS[group], rad_min=low, rad_max=high, noise_max=0, num_seg_classes=1,
                random_state=random,
            )  # fmt: skip
            for scan in "ab":
                shift = tuple(random.randint(-6, 7, 3))
                volumes = {
                    "image": np.roll(balls, shift, (0, 1, 2)) * random.uniform(0.6, 1.4)
                    + random.uniform(0, 0.4, shape),
                    "label": np.roll(mask, shift, (0, 1, 2)),
                }
                item: dict[str, Any] = {"subject": f"{section}_{number:02d}", "class": group}
                for key, kind in (("image", np.float32), ("label", np.uint8)):
                    item[key] = f"{key}s/{item['subject']}{scan}.nii.gz"
                    image = nib.Nifti1Image(volumes[key].astype(kind), affine)  # type: ignore[no-untyped-call]
                    nib.save(image, folder / item[key])
                sections[section].append(item)
    description = "Balls made by MONAI's create_test_image_3d, two scans a subject: a demonstration only."
    write_datalist(folder, "SimCVD phantom subjects", description, sections)
