"""The left-atrium benchmark, from the challenge's raw scans or from the crops published with UA-MT."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.intensity.array import NormalizeIntensity

from simcvd_bundle.commands.prepare.common import prepare_dataset, require_folders, split_cases
from simcvd_bundle.commands.prepare.files import Case, Recipe
from simcvd_bundle.commands.prepare.volumes import (
    apply,
    crop,
    crop_box,
    match_grid,
    read_label,
    read_volume,
    require_values,
)
from simcvd_bundle.data.reading import as_integers, as_tensor

CROP_MIN_SIZE = 112
"""In-plane voxels that the box is grown to before the margin is added: the training patch (UA-MT)."""
CROP_MARGIN = 15
"""In-plane margin in voxels. UA-MT draws each side anew from 10 to 19 at random; this is the middle."""
NOMINAL_SPACING_MM = 0.625
"""Spacing of the challenge's scans, of which the published h5 files keep no record."""
REFERENCE = "2018 Atrial Segmentation Challenge (Xiong et al., Medical Image Analysis 2020)"
LABELS = {0: "background", 1: "left atrium"}


def la(source: str, output: str, train_list: str | None = None, test_list: str | None = None) -> None:
    """Prepare the raw scans of the 2018 Atrial Segmentation Challenge.

    Expects SOURCE/ID/lgemri.nrrd and SOURCE/ID/laendo.nrrd (0 and 255). The scan is z-scored as a whole, then scan and
    label are cropped in x and y to the label's box, grown to at least 112 voxels, plus 15 voxels on each side; z stays
    whole. So the crop uses the label, as everyone's on this benchmark. The published crops differ by a random margin of
    10 to 19 voxels on each side instead of 15. Voxels keep the order and the place in the world that the NRRD gives.

    Folders without laendo.nrrd become unlabelled training items; without a label no crop is possible, so they stay
    whole scans. Labelled folders that no list names are left out.

    Args:
        source: folder with one folder a case.
        output: folder to write; cases that are already finished there are skipped.
        train_list: text file with one ID a line, whose order is kept; without it all labelled cases that are not in
            test_list, sorted.
        test_list: text file with one ID a line; without it there is no test section.
    """
    root, target = Path(str(source)), Path(str(output))
    require_folders(target, root)
    names = sorted(path.parent.name for path in root.glob("*/lgemri.nrrd"))
    labeled = [name for name in names if (root / name / "laendo.nrrd").exists()]
    split = split_cases(labeled, train_list, test_list)
    cases = [Case(name, partial(_read_nrrd, root / name), section=section) for name, section in split.items()]
    cases += [Case(name, partial(_read_nrrd, root / name), labeled=False) for name in names if name not in labeled]
    recipe = Recipe(
        tag="simcvd_bundle prepare la",
        name="Left Atrium LGE-MRI",
        description="z-scored over the whole scan, then cropped in x and y to the label's box, grown to at least 112 "
        "voxels, plus 15 voxels on each side, z whole; unlabelled scans are not cropped",
        reference=REFERENCE,
        modality="MRI",
        labels=LABELS,
    )
    prepare_dataset(cases, target, recipe)


def la_h5(source: str, output: str, train_list: str | None = None, test_list: str | None = None) -> None:
    """Prepare the crops published with UA-MT (Yu et al., MICCAI 2019).

    Expects SOURCE/ID/mri_norm2.h5 with the datasets image (z-scored and cropped already) and label (0 and 1). Nothing
    is changed but the file format. The files keep no geometry: a spacing of 0.625 mm and the identity orientation are
    nominal, so the output says nothing of left and right.

    Args:
        source: folder with one folder a case.
        output: folder to write; cases that are already finished there are skipped.
        train_list: text file with one ID a line, whose order is kept; without it all cases that are not in test_list,
            sorted.
        test_list: text file with one ID a line; without it there is no test section.
    """
    root, target = Path(str(source)), Path(str(output))
    require_folders(target, root)
    names = sorted(path.parent.name for path in root.glob("*/mri_norm2.h5"))
    split = split_cases(names, train_list, test_list)
    cases = [Case(name, partial(_read_h5, root / name), section=section) for name, section in split.items()]
    recipe = Recipe(
        tag="simcvd_bundle prepare la_h5",
        name="Left Atrium LGE-MRI",
        description="crops published with UA-MT (Yu et al., MICCAI 2019), unchanged; the spacing of 0.625 mm and the "
        "orientation are nominal, the published files keep none",
        reference=REFERENCE,
        modality="MRI",
        labels=LABELS,
    )
    prepare_dataset(cases, target, recipe)


def crop_left_atrium(image: MetaTensor, label: MetaTensor) -> tuple[MetaTensor, MetaTensor]:
    """Crop image and label (shape 1HWD) in the first two axes to the label's box, see :func:`la`."""
    whole = label.shape[-1]
    box = crop_box(label, margin=(CROP_MARGIN, CROP_MARGIN, whole), min_size=(CROP_MIN_SIZE, CROP_MIN_SIZE, 0))
    return crop(image, box), crop(label, box)


def _read_nrrd(folder: Path) -> tuple[MetaTensor, MetaTensor | None]:
    image = apply(read_volume(folder / "lgemri.nrrd"), NormalizeIntensity())
    if not (folder / "laendo.nrrd").exists():
        return image, None
    label = read_label(folder / "laendo.nrrd", image)
    require_values(label, (0, 255))
    return crop_left_atrium(image, apply(label, lambda values: values // 255))


def _read_h5(folder: Path) -> tuple[MetaTensor, MetaTensor | None]:
    with h5py.File(folder / "mri_norm2.h5") as file:
        missing = {"image", "label"} - set(file)
        if missing:
            raise ValueError(f"mri_norm2.h5 has no dataset {sorted(missing)}: it is not a file of UA-MT.")
        affine = torch.diag(torch.tensor([NOMINAL_SPACING_MM] * 3 + [1.0], dtype=torch.float64))
        image = MetaTensor(torch.as_tensor(np.asarray(file["image"], dtype=np.float32))[None], affine=affine)
        label = MetaTensor(as_tensor(as_integers(np.asarray(file["label"]), folder.name))[None], affine=affine)
    require_values(label, tuple(LABELS))
    return image, match_grid(image, label)
