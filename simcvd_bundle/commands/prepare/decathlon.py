"""Any single-channel task in the layout of the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from monai.data.meta_tensor import MetaTensor
from monai.transforms.intensity.array import ClipIntensityPercentiles, NormalizeIntensity

from simcvd_bundle.commands.prepare.common import prepare_dataset, require_folders
from simcvd_bundle.commands.prepare.files import Case, Recipe
from simcvd_bundle.commands.prepare.volumes import apply, read_label, read_volume, require_values
from simcvd_bundle.data.class_names import names_of_datalist
from simcvd_bundle.data.names import stem

CT_PERCENTILES = (0.5, 99.5)


def msd(source: str, output: str) -> None:
    """Prepare a task of the Medical Segmentation Decathlon, such as Task02_Heart, or own data in its layout.

    Expects SOURCE/dataset.json and the files that its sections training and test name. Each scan is z-scored as a
    whole, CT after clipping to the scan's own 0.5 and 99.5 percentiles. Nothing is cropped or resampled. The images of
    the test section, whose labels the organisers keep, become unlabelled training items.

    Args:
        source: folder of the task.
        output: folder to write; cases that are already finished there are skipped.
    """
    root, target = Path(str(source)), Path(str(output))
    require_folders(target, root)
    content = _read_index(root / "dataset.json")
    labels = names_of_datalist(content)
    modality = ", ".join(str(name) for name in content["modality"].values())
    clip = "ct" in modality.lower().split(", ")
    # macOS leaves a companion file ._NAME for every file in some copies of the archives
    training = [item for item in content["training"] if not Path(item["image"]).name.startswith("._")]
    unlabeled = [image for image in content.get("test", []) if not Path(image).name.startswith("._")]
    read = partial(_read, values=tuple(labels), clip=clip)
    cases = [
        Case(stem(Path(item["image"])), partial(read, root / item["image"], root / item["label"])) for item in training
    ]
    cases += [Case(stem(Path(image)), partial(read, root / image, None), labeled=False) for image in unlabeled]
    clipped = "clipped to the scan's 0.5 and 99.5 percentiles, " if clip else ""
    recipe = Recipe(
        tag=f"simcvd_bundle prepare msd{' clipped' if clip else ''}",
        name=str(content["name"]),
        description=f"{clipped}z-scored over the whole scan, native grid; the test images are unlabelled here",
        reference=str(content.get("reference", "")),
        modality=modality,
        labels=labels,
    )
    prepare_dataset(cases, target, recipe)


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: pass the folder of one task, such as Task02_Heart.")
    content: dict[str, Any] = json.loads(path.read_text())
    missing = {"name", "labels", "modality", "training"} - set(content)
    if missing:
        raise ValueError(f"{path} has no {sorted(missing)}: it is not an index of the Medical Segmentation Decathlon.")
    if not names_of_datalist(content):
        raise ValueError(f'{path} names no label values: write "labels" as {{"0": "background", "1": "liver"}}.')
    return content


def _read(image: Path, label: Path | None, values: tuple[int, ...], clip: bool) -> tuple[MetaTensor, MetaTensor | None]:
    scan = read_volume(image)
    if clip:
        scan = apply(scan, ClipIntensityPercentiles(*CT_PERCENTILES))
    scan = apply(scan, NormalizeIntensity())
    if label is None:
        return scan, None
    mask = read_label(label, scan)
    require_values(mask, values)
    return scan, mask
