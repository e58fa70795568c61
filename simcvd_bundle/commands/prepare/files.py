"""One case on disk: written through a temporary file, read back, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data.meta_tensor import MetaTensor

from simcvd_bundle.data.reading import label_dtype
from simcvd_bundle.utils.atomic import atomically


@dataclass(frozen=True)
class Case:
    """One case to prepare.

    Attributes:
        name: identifier, the stem of the files written.
        load: reads and prepares it; gives the image and the label (None if unlabelled), both MetaTensors of shape 1HWD.
        labeled: whether ``load`` gives a label.
        section: the section of ``dataset.json``.
    """

    name: str
    load: Callable[[], tuple[MetaTensor, MetaTensor | None]]
    labeled: bool = True
    section: str = "training"


@dataclass(frozen=True)
class Recipe:
    """How a dataset was made: what ``dataset.json`` says of it, and ``tag``, which marks every image written.

    A case on disk counts as finished only if its tag is this one, so that two sources never mix in one folder.
    """

    tag: str
    name: str
    description: str
    reference: str
    modality: str
    labels: Mapping[int, str]


@dataclass(frozen=True)
class Report:
    """What was read back of one finished case; ``foreground`` is a fraction, None if unlabelled."""

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    mean: float
    std: float
    foreground: float | None


def write_case(output: Path, case: Case, recipe: Recipe) -> None:
    """Load one case and write its image (float32) and, if labelled, its label (`label_dtype`)."""
    image, label = case.load()
    if label is not None:
        _write_nifti(output / "labels" / f"{case.name}.nii.gz", label, label_dtype(recipe.labels), recipe.tag)
    _write_nifti(output / "images" / f"{case.name}.nii.gz", image, np.float32, recipe.tag)


def inspect_case(output: Path, case: Case, recipe: Recipe) -> Report:
    """Read a finished case back and check it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the recipe is another one, the image is not finite or is constant, image and label have
            different grids, or the label is empty or has undeclared values.
    """
    image: Any = nib.load(output / "images" / f"{case.name}.nii.gz")
    if image.header["descrip"].item().decode() != recipe.tag:
        raise ValueError(f"{image.get_filename()} was not made by '{recipe.tag}'.")
    array = np.asarray(image.dataobj)
    if not np.isfinite(array).all() or array.min() == array.max():
        raise ValueError("image is constant or has values that are not finite.")
    foreground = None
    if case.labeled:
        label: Any = nib.load(output / "labels" / f"{case.name}.nii.gz")
        mask = np.asarray(label.dataobj)
        if mask.shape != array.shape or not np.allclose(label.affine, image.affine):
            raise ValueError("image and label were written on different grids.")
        if mask.dtype != label_dtype(recipe.labels):
            raise ValueError(f"label has the type {mask.dtype}, which is not that of its values.")
        if not set(np.unique(mask).tolist()) <= set(recipe.labels) or not mask.any():
            raise ValueError(f"label is empty or has values other than {sorted(recipe.labels)}.")
        foreground = float((mask != 0).mean())
    spacing_mm = tuple(round(float(size), 4) for size in image.header.get_zooms())
    return Report(array.shape, spacing_mm, float(array.mean(dtype=float)), float(array.std(dtype=float)), foreground)


def _write_nifti(path: Path, volume: MetaTensor, dtype: npt.DTypeLike, tag: str) -> None:
    """Write a volume of shape 1HWD through a temporary file, which is read back before it takes its place."""
    array, affine = volume.numpy()[0].astype(dtype), np.asarray(volume.affine, dtype=float)
    image: Any = nib.Nifti1Image(array, affine, dtype=dtype)  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = tag
    with atomically(path) as unfinished:
        nib.save(image, unfinished)
        written: Any = nib.load(unfinished)
        if not np.array_equal(written.dataobj, array) or not np.allclose(written.affine, affine, atol=1e-3):
            raise ValueError(f"{path} does not read back as written: values that are not finite, or a faulty disk.")
