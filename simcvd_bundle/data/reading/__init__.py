"""One way to read: a scan is exact values on one grid, or an error with name, place and remedy."""

from simcvd_bundle.data.reading.dicom import DicomSeries, is_dicom_folder
from simcvd_bundle.data.reading.grid import GRID_TOLERANCE, Grid
from simcvd_bundle.data.reading.labels import LoadLabeld, as_integers, label_dtype, open_label, read_label
from simcvd_bundle.data.reading.loading import LoadScand, as_tensor, open_channels, open_volume, read_scan
from simcvd_bundle.data.reading.nifti import is_nifti
from simcvd_bundle.data.reading.volume import Volume

__all__ = [
    "GRID_TOLERANCE",
    "DicomSeries",
    "Grid",
    "LoadLabeld",
    "LoadScand",
    "Volume",
    "as_integers",
    "as_tensor",
    "is_dicom_folder",
    "is_nifti",
    "label_dtype",
    "open_channels",
    "open_label",
    "open_volume",
    "read_label",
    "read_scan",
]
