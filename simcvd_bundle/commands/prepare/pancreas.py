"""NIH Pancreas-CT, from the DICOM series and the label files of The Cancer Imaging Archive."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from monai.data.meta_tensor import MetaTensor
from monai.transforms.intensity.array import NormalizeIntensity
from monai.transforms.spatial.array import Flip, Orientation, Spacing

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
from simcvd_bundle.data.reading import DicomSeries

WINDOW_HU = (-125.0, 275.0)
"""Soft-tissue window of the published pipelines and of the paper."""
SPACING_MM = 1.0
CROP_MARGIN = 25
"""Voxels (mm) around the pancreas on every side, as in the published pipelines."""
LABELS = {0: "background", 1: "pancreas"}
LABEL_ORDERS = ("header", "instance")


def pancreas(
    images: str,
    labels: str,
    output: str,
    train_list: str | None = None,
    test_list: str | None = None,
    label_order: str = "header",
) -> None:
    """Prepare NIH Pancreas-CT.

    Expects one DICOM series for each IMAGES/PANCREAS_0001 (in any subfolder) and LABELS/label0001.nii.gz. Intensities
    are clipped to [-125, 275] HU, image (linear) and label (nearest) resampled to 1 mm isotropic, cropped to the
    label's box plus 25 voxels on every side, and z-scored over the crop. So the crop uses the label, as everyone's on
    this benchmark. Cases 25 and 70 of the first release are duplicates of case 2: leave them out of your lists.

    The label is matched to the image through the world coordinates of both headers, whatever the order of their slices.
    Where the headers place them differently the case stops with an error, since a flipped label looks plausible. If
    label headers are nominal in your release, --label_order instance takes the label's voxels in the order of the
    DICOM pixels and instance numbers, as the published codes do; look at a few results then.

    Args:
        images: folder with one folder a patient.
        labels: folder with the label files.
        output: folder to write; cases that are already finished there are skipped.
        train_list: text file with one patient (PANCREAS_0001) a line, whose order is kept; without it all that are not
            in test_list, sorted.
        test_list: text file with one patient a line; without it there is no test section.
        label_order: "header" to trust the geometry in the label files, "instance" to ignore it.
    """
    if label_order not in LABEL_ORDERS:
        raise ValueError(f"label_order is {label_order!r}, but must be one of {LABEL_ORDERS}.")
    scans, masks, target = Path(str(images)), Path(str(labels)), Path(str(output))
    require_folders(target, scans, masks)
    names = sorted(path.name for path in scans.glob("PANCREAS_*") if path.is_dir())
    split = split_cases(names, train_list, test_list)
    cases = [
        Case(name, partial(_read, scans / name, masks / f"label{name[-4:]}.nii.gz", label_order), section=section)
        for name, section in split.items()
    ]
    recipe = Recipe(
        tag=f"simcvd_bundle prepare pancreas {label_order}",
        name="NIH Pancreas-CT",
        description="clipped to [-125, 275] HU, resampled to 1 mm isotropic, cropped to the label's box plus 25 voxels "
        f"on every side, z-scored over the crop; label voxels placed by {label_order}. PANCREAS_0025 and PANCREAS_0070 "
        "of the first release are duplicates of PANCREAS_0002",
        reference="Roth et al., MICCAI 2015; The Cancer Imaging Archive, doi:10.7937/K9/TCIA.2016.tNB1kqBU",
        modality="CT",
        labels=LABELS,
    )
    prepare_dataset(cases, target, recipe)


def _read(scan: Path, mask: Path, label_order: str) -> tuple[MetaTensor, MetaTensor | None]:
    series, label = open_series(scan), read_label(mask)
    image = read_volume(series.path)
    require_values(label, tuple(LABELS))
    if label_order == "instance":
        label = _ordered_by_instance(series, image, label)
    else:
        axcodes = "".join(nib.aff2axcodes(np.asarray(image.affine)))  # type: ignore[no-untyped-call]
        label = apply(label, Orientation(axcodes=axcodes, labels=None))
    label = match_grid(image, label)
    image = apply(
        image,
        lambda values: values.clamp(*WINDOW_HU),
        Spacing(pixdim=SPACING_MM, mode="bilinear", padding_mode="border", dtype=np.float32),
    )
    label = apply(label, Spacing(pixdim=SPACING_MM, mode="nearest", dtype=np.float32))
    box = crop_box(label, margin=(CROP_MARGIN,) * 3, min_size=(0, 0, 0))
    return apply(crop(image, box), NormalizeIntensity()), crop(label, box)


def open_series(folder: Path) -> DicomSeries:
    """Open the one DICOM series below a folder, slices in ascending order of position.

    Raises:
        FileNotFoundError: if there is no .dcm file.
        ValueError: if there are several folders with .dcm files, or what is in the folder is no regular volume.
    """
    folders = sorted({path.parent for path in folder.rglob("*.dcm")})
    if not folders:
        raise FileNotFoundError(f"no .dcm file below {folder}: complete the download.")
    if len(folders) > 1:
        raise ValueError(f"{len(folders)} folders with .dcm files below {folder}: keep the one of the labelled series.")
    return DicomSeries(folders[0])


def _ordered_by_instance(series: DicomSeries, image: MetaTensor, label: MetaTensor) -> MetaTensor:
    """Give the label the image's geometry, its slices being stored in the order of the DICOM instance numbers."""
    header = pydicom.dcmread(series.frames[0].path, stop_before_pixels=True, specific_tags=["InstanceNumber"])
    first, count = int(header.InstanceNumber), image.shape[-1]
    if first not in (1, count):
        raise ValueError(f"the first slice has instance number {first}, neither 1 nor {count}: slices are missing.")
    ordered = apply(label, Flip(spatial_axis=2)) if first == count else label
    ordered.affine = image.affine
    return ordered
