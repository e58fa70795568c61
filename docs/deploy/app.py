"""MONAI Deploy application: segment a DICOM series, or a NIfTI file, with an exported model of the bundle.

    python docs/deploy/app.py -i INPUT -o OUTPUT -m models/model.ts

INPUT is a folder with one DICOM series, or with one NIfTI file. OUTPUT gets a DICOM segmentation, or the NIfTI mask.
Needs monai-deploy-app-sdk, see docs/deploy.md; our package is not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Fragment, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import (
    BundleConfigNames,
    IOMapping,
    MonaiBundleInferenceOperator,
)
from monai.deploy.operators.nii_data_loader_operator import NiftiDataLoader
from pydicom.sr.codedict import codes

CONFIGS = ["inference", "deploy"]  # as exported with ckpt_export; the later one replaces ids of the earlier one
SEGMENTS = [
    SegmentDescription(
        segment_label="Left atrium",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.LeftAtrium,
        algorithm_name="SimCVD",
        algorithm_family=codes.DCM.ArtificialIntelligence,
        algorithm_version="0.1.0",
    )
]


class SimCVDApplication(Application):
    """Load, segment, write; all operators but the NIfTI writer are the SDK's."""

    def compose(self) -> None:
        """Connect the operators."""
        context = Application.init_app_context(self.argv)
        source, output = Path(context.input_path), Path(context.output_path)
        segment = MonaiBundleInferenceOperator(
            self,
            name="segment",
            app_context=context,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_config_names=BundleConfigNames(config_names=CONFIGS),
        )
        nifti = sorted(source.glob("*.nii*"))
        if nifti:
            reader = NiftiDataLoader(self, CountCondition(self, 1), input_path=nifti[0], name="load")
            writer = NiftiMaskWriter(self, like=nifti[0], folder=output, name="write")
            self.add_flow(reader, segment, {("image", "image")})
            self.add_flow(segment, writer, {("pred", "mask")})
            return
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=source, name="load")
        selector = DICOMSeriesSelectorOperator(self, name="select")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        seg_writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=SEGMENTS, output_folder=output, name="write"
        )
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(volume, segment, {("image", "image")})
        self.add_flow(selector, seg_writer, {("study_selected_series_list", "study_selected_series_list")})
        self.add_flow(segment, seg_writer, {("pred", "seg_image")})


class NiftiMaskWriter(Operator):
    """Write a mask in the geometry of the scan, which the SDK's NIfTI reader does not pass on.

    Args:
        fragment: the application.
        *args: as for ``Operator``.
        like: the scan.
        folder: where ``SCAN_seg.nii.gz`` goes.
        **kwargs: as for ``Operator``.
    """

    def __init__(self, fragment: Fragment, *args: Any, like: Path, folder: Path, **kwargs: Any) -> None:
        self.like = like
        self.folder = folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the input."""
        spec.input("mask")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the mask that arrived."""
        mask = np.swapaxes(op_input.receive("mask").asnumpy(), 0, 2)  # the SDK's order is D, H, W
        self.folder.mkdir(parents=True, exist_ok=True)
        name = self.like.name.removesuffix(".gz").removesuffix(".nii")
        nib.save(nib.Nifti1Image(mask, nib.load(self.like).affine), self.folder / f"{name}_seg.nii.gz")


if __name__ == "__main__":
    SimCVDApplication().run()
