"""Results as files on the grid of their scan."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import NibabelWriter
from monai.data.folder_layout import FolderLayoutBase
from monai.transforms import SaveImaged

from simcvd_bundle.data.cases import case_name
from simcvd_bundle.data.masks import PREDICTED
from simcvd_bundle.data.names import result_file
from simcvd_bundle.data.reading.nifti import nifti_image
from simcvd_bundle.inference.batch import FULL, Results
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)


class ScanGridWriter(NibabelWriter):
    """MONAI's NIfTI writer, but results have shape and header of their scan, are marked, and whole before named."""

    def set_metadata(self, meta_dict: Any, resample: bool = False, **options: Any) -> None:
        """Take the scan's file and affine; nothing is resampled, as results lie on the scan's grid."""
        self.scan, self.affine = Path(meta_dict["filename_or_obj"]), np.asarray(meta_dict["affine"], dtype=float)

    def write(self, filename: Any, verbose: bool = False, **kwargs: Any) -> None:
        """Write to ``filename``."""
        array = np.asarray(self.data_obj)[..., 0] if self.data_obj.shape[-1] == 1 else np.asarray(self.data_obj)
        image = nifti_image(array.astype(self.output_dtype), self.affine, self.scan)
        image.header["descrip"] = PREDICTED
        with atomically(Path(filename)) as unfinished:
            nib.save(image, unfinished)
        if verbose:
            logger.info("Wrote %s", filename)


class ResultLayout(FolderLayoutBase):
    """Names of results, see `result_file`. MONAI's layout cuts a name at its last dot: the UID of a series, ``X.NII``.

    Args:
        output_dir: folder of the files.
        postfix: end of the names.
        data_root_dir: folder whose sub-folders are repeated.
    """

    def __init__(self, output_dir: str, postfix: str, data_root_dir: str = "") -> None:
        self.arguments = (output_dir, postfix, data_root_dir)

    def filename(self, **kwargs: Any) -> Path:
        """The file of the result of the scan ``subject``, its folder made."""
        file = result_file(kwargs["subject"], *self.arguments)
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


class SaveResultd(SaveImaged):
    """MONAI's ``SaveImaged`` in the threads of ``Results``; files are ``NAME_POSTFIX.nii.gz`` on the scan's grid.

    Args:
        results: the threads.
        keys: as for ``SaveImaged``.
        output_dir: folder of the files.
        postfix: end of the names.
        data_root_dir: folder whose sub-folders are repeated in ``output_dir``.
        **kwargs: as for ``SaveImaged``.
    """

    def __init__(
        self, results: Results, keys: KeysCollection, output_dir: str, postfix: str, data_root_dir: str = "",
        **kwargs: Any,
    ) -> None:  # fmt: skip
        self.arguments = (output_dir, postfix, data_root_dir)
        layout = ResultLayout(*self.arguments)
        super().__init__(keys, writer=ScanGridWriter, folder_layout=layout, squeeze_end_dims=False, **kwargs)
        self.results = results

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Queue the arrays of the keys for writing and return ``data`` as it is."""
        # what waits is only what is written, in main memory: the rest of a case would keep that of a GPU
        waiting = {key: data[key].cpu() for key in self.key_iterator(dict(data))}
        file = result_file(data[self.keys[0]].meta["filename_or_obj"], *self.arguments)
        self.results.submit(case_name(data), file, self._save, waiting)
        return dict(data)

    def _save(self, data: dict[Hashable, Any]) -> None:
        try:
            super().__call__(data)  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # MONAI's holds a page of tracebacks, the cause in its last line
            problem = OSError(f"a result cannot be written: {str(error).strip().splitlines()[-1]}")
            problem.errno = next((number for number in FULL if os.strerror(number) in str(error)), None)
            raise problem from None
