"""Masks of DICOM series as DICOM segmentations, which archives and viewers show over the series."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

import simcvd_bundle
from simcvd_bundle.data.cases import case_name
from simcvd_bundle.data.reading.dicom import DicomSeries
from simcvd_bundle.data.reading.grid import Grid
from simcvd_bundle.inference.batch import Results
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)

NAME = "SimCVD bundle"
LONGEST_LABEL = 64
"""Characters of a DICOM label and of a code's meaning."""
DESCRIPTION = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What a segmentation takes from its series, where it may be empty; anonymised files lack some of it."""


class SaveDicomSegd(MapTransform):
    """Write masks of DICOM series as ``NAME_seg.dcm`` too, in the threads of ``Results``.

    A segment is one class, its frames are the slices of the series, whose positions they have (gantry tilt included):
    a bit for each class and voxel. Scans of other formats are passed over, which is logged once.

    Args:
        results: the threads.
        keys: masks of class indices ``(1, H, W, D)`` on the grid of the scan.
        output_dir: folder of the files.
        class_names: name of each class index from 1.

    Raises:
        ImportError: when highdicom is not installed.
    """

    def __init__(self, results: Results, keys: KeysCollection, output_dir: str, class_names: Mapping[str, str]) -> None:
        super().__init__(keys)
        _highdicom()
        self.results = results
        self.output_dir = Path(output_dir)
        self.class_names = {int(index): name for index, name in class_names.items()}
        self.others_logged = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Queue the masks for writing and return ``data`` as it is."""
        for key in self.key_iterator(dict(data)):
            mask = data[key]
            folder = Path(mask.meta["filename_or_obj"])
            if folder.is_dir():
                file = self.output_dir / f"{folder.name}_seg.dcm"
                self.results.submit(case_name(data), file, self._save, file, folder, mask.cpu())
            elif not self.others_logged:
                self.others_logged = True
                logger.warning(
                    "save_dicom_seg: %s is no DICOM series. It and others like it get a NIfTI mask alone.", folder
                )
        return dict(data)

    def _save(self, file: Path, folder: Path, mask: MetaTensor) -> None:
        series = DicomSeries(folder)
        labels = np.asarray(mask)[0].astype(np.uint8)
        difference = Grid(labels.shape, np.asarray(mask.affine, dtype=float)).difference(series.grid)
        if difference:
            raise ValueError(f"no DICOM segmentation can be written, the series lies elsewhere: {difference}.")
        with atomically(file) as unfinished:
            segmentation(series, labels, self.class_names).save_as(unfinished)


def segmentation(series: DicomSeries, labels: np.ndarray, class_names: Mapping[int, str]) -> Dataset:
    """The DICOM segmentation of a series.

    Args:
        series: what was segmented.
        labels: class indices on its grid, uint8.
        class_names: name of each class index from 1.

    Raises:
        ValueError: when the series has several multi-frame files, or one without functional groups, or no frame of
            reference; names it.
    """
    hd = _highdicom()
    sources = _sources(hd, series)
    labels = labels if len(sources) > 1 else labels[:, :, np.argsort([frame.index for frame in series.frames])]
    algorithm = hd.AlgorithmIdentificationSequence(
        name=NAME, family=codes.DCM.ArtificialIntelligence, version=simcvd_bundle.__version__
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=index,
            segment_label=name[:LONGEST_LABEL],
            segmented_property_category=codes.SCT.Tissue,  # the most general one: a class may be an organ or a lesion
            segmented_property_type=hd.sr.CodedConcept(str(index), "99SIMCVD", name[:LONGEST_LABEL]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for index, name in class_names.items()
    ]
    return hd.seg.Segmentation(  # type: ignore[no-any-return]
        source_images=sources,
        pixel_array=np.ascontiguousarray(labels.T),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=1000 + int(sources[0].get("SeriesNumber") or 0),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name=NAME,
        software_versions=simcvd_bundle.__version__,
        device_serial_number="none",
        omit_empty_frames=False,  # the whole grid of the series, as the NIfTI mask has it
        series_description="Segmentation by the " + NAME,
    )


def _sources(hd: Any, series: DicomSeries) -> list[Dataset]:
    """Headers of the files, with one orientation and spacing for all: highdicom takes them as they are there."""
    paths = list(dict.fromkeys(frame.path for frame in series.frames))
    sources: list[Dataset] = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    enhanced = "PerFrameFunctionalGroupsSequence" in sources[0]
    if len(paths) != (1 if enhanced else len(series.frames)):
        raise ValueError(
            f"no DICOM segmentation of {series.path} can be written: it needs one file for each slice, or a single "
            "enhanced multi-frame file."
        )
    first = series.frames[0]
    columns, rows = first.spacing
    volume = abs(np.linalg.det(series.grid.affine[:3, :3]))
    thickness = float(volume / (columns * rows))  # along the normal
    orientation = hd.PlaneOrientationSequence("PATIENT", first.orientation.ravel().tolist())
    measures = hd.PixelMeasuresSequence((float(rows), float(columns)), thickness, thickness)
    for path, source in zip(paths, sources, strict=True):
        if not source.get("FrameOfReferenceUID"):
            raise ValueError(f"no DICOM segmentation can be written, as {path} has no FrameOfReferenceUID.")
        for name in DESCRIPTION:
            source.setdefault(name, "")
        if enhanced:
            shared = source.get("SharedFunctionalGroupsSequence", [Dataset()])[0]
            shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = orientation, measures
            source.SharedFunctionalGroupsSequence = [shared]
        else:
            source.update(orientation[0])
            source.update(measures[0])
    return sources


def _highdicom() -> Any:
    try:
        return importlib.import_module("highdicom")
    except ImportError as error:
        raise ImportError(
            f"save_dicom_seg needs highdicom ({error}): pip install 'simcvd-bundle[seg]', or highdicom itself."
        ) from error
