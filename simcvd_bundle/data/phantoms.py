"""The embedded demo data: phantom volumes, generated on first use."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import create_test_image_3d

SIZES = {"training": 12, "validation": 4, "test": 4}
NUM_LABELED = 4
SHAPE = (64, 64, 48)
SPACING_MM = 1.0


def phantom_dataset(
    folder: str, seed: int = 0, shape: tuple[int, int, int] | None = None, num_training: int | None = None
) -> str:
    """Make the phantoms in ``folder`` unless they are there, and return ``folder``.

    Volumes hold up to eight noisy balls (MONAI's ``create_test_image_3d``); the first four training cases are labelled.
    The same seed gives the same volumes. The folder appears all at once, so an interruption or a second process leaves
    no half-made set.

    Args:
        folder: where the set lies, ``dataset.json``, ``images/`` and ``labels/``.
        seed: seed of the generator.
        shape: voxels of a volume, at least 30 an axis; ``None`` for 64 x 64 x 48.
        num_training: number of training cases; ``None`` for 12.

    Raises:
        FileExistsError: when ``folder`` exists without a ``dataset.json``: it is not ours to fill.
    """
    sizes = {**SIZES, "training": num_training or SIZES["training"]}
    return made_once(folder, lambda scratch: _write(scratch, np.random.RandomState(seed), shape or SHAPE, sizes))


def made_once(folder: str, write: Callable[[Path], None]) -> str:
    """Have ``write`` fill a folder unless it has a ``dataset.json``, and return ``folder``; it appears all at once.

    Raises:
        FileExistsError: when ``folder`` exists without a ``dataset.json``.
    """
    target = Path(folder)
    if (target / "dataset.json").is_file():
        return str(target)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty and has no dataset.json: move it away or set dataset_dir.")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".phantoms_", dir=target.parent))
    scratch.chmod(0o755)
    try:
        write(scratch)
        scratch.replace(target)
    except OSError:
        if not (target / "dataset.json").is_file():  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return str(target)


def _write(folder: Path, random: np.random.RandomState, shape: tuple[int, int, int], sizes: Mapping[str, int]) -> None:
    sections: dict[str, list[dict[str, str]]] = {}
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])

    def save(array: np.ndarray, path: Path) -> None:
        nib.save(nib.Nifti1Image(array, affine), path)  # type: ignore[no-untyped-call]

    for name in ("images", "labels"):
        (folder / name).mkdir()
    for section, size in sizes.items():
        sections[section] = []
        for number in range(size):
            image, label = create_test_image_3d(
                *shape, num_objs=8, rad_max=14, rad_min=6, noise_max=0.6, num_seg_classes=1, random_state=random
            )
            item = {"image": f"images/{section}_{number:02d}.nii.gz"}
            save(image.astype(np.float32), folder / item["image"])
            if section != "training" or number < NUM_LABELED:
                item["label"] = f"labels/{section}_{number:02d}.nii.gz"
                save(label.astype(np.uint8), folder / item["label"])
            sections[section].append(item)
    description = "Noisy balls made by MONAI's create_test_image_3d: a demonstration, not a benchmark."
    write_datalist(folder, "SimCVD phantoms", description, sections)


def write_datalist(folder: Path, name: str, description: str, sections: Mapping[str, Any]) -> None:
    """Write the ``dataset.json`` of phantoms."""
    labels = {"0": "background", "1": "ball"}
    content = {"name": name, "description": description, "tensorImageSize": "3D", "labels": labels, **sections}
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
