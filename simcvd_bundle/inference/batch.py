"""Batch inference in which a bad case does not stop the others, and results are written beside the computation."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data import NibabelWriter
from monai.data.folder_layout import FolderLayoutBase
from monai.engines import SupervisedEvaluator
from monai.transforms import MapTransform, SaveImaged

from simcvd_bundle.data.cases import case_name
from simcvd_bundle.data.masks import PREDICTED
from simcvd_bundle.data.names import result_file
from simcvd_bundle.data.reading.nifti import nifti_image
from simcvd_bundle.networks.vnet import split_output
from simcvd_bundle.utils.atomic import atomically
from simcvd_bundle.utils.devices import log_device
from simcvd_bundle.utils.errors import first_cause
from simcvd_bundle.utils.memory import keep_freed_memory
from simcvd_bundle.utils.workers import worker_errors

logger = logging.getLogger(__name__)


class Results:
    """Threads that write the results of a batch, and the cases that could not be read, segmented or written.

    At most ``max_pending`` results wait to be written, so memory stays bounded.

    Args:
        num_threads: number of threads.
        max_pending: results in memory before the next one has to wait.
    """

    def __init__(self, num_threads: int = 2, max_pending: int = 4) -> None:
        self.reasons: dict[str, str] = {}
        self.threads = ThreadPoolExecutor(num_threads)
        self.max_pending = max_pending
        self.pending: deque[tuple[str, Future[Any]]] = deque()

    def attach(self, engine: Engine) -> None:
        """Wait for the results when the engine has seen all cases, before the handlers that come later."""
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def fail(self, case: str, reason: BaseException | str) -> None:
        """Record a case as bad; the first reason counts."""
        text = reason if isinstance(reason, str) else f"{first_cause(reason)}" or type(reason).__name__
        if case not in self.reasons:
            logger.error("%s failed, going on with the next case: %s", case, text)
        self.reasons.setdefault(case, text)

    def submit(self, case: str, function: Any, *args: Any) -> None:
        """Call ``function`` in a thread, for the case of this name."""
        while len(self.pending) >= self.max_pending:
            self._wait()
        self.pending.append((case, self.threads.submit(function, *args)))

    def finish(self) -> None:
        """Wait until all is written.

        Raises:
            RuntimeError: with all cases that failed, if any.
        """
        while self.pending:
            self._wait()
        if self.reasons:
            lines = "\n".join(f"  {case}: {reason}" for case, reason in self.reasons.items())
            raise RuntimeError(
                f"{len(self.reasons)} cases failed, all others are written. Mend or remove them and run again:\n{lines}"
            )

    def _wait(self) -> None:
        case, future = self.pending.popleft()
        error = future.exception()
        if error is not None:
            self.fail(case, error)


class BatchEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, but a bad case is recorded, and the run ends with the results.

    Args:
        results: where a case is recorded.
        **kwargs: as for ``SupervisedEvaluator``; batches hold one case.
    """

    def __init__(self, results: Results, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.results = results
        results.attach(self)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Segment all cases.

        Raises:
            RuntimeError: at the end, with all cases that failed, if any.
        """
        keep_freed_memory()
        log_device("Segmenting", self)
        with worker_errors():
            super().run(global_epoch)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> Any:
        if "failure" in batchdata:  # what SkippedCases gives for an unreadable case
            self.results.fail(batchdata["image"][0], batchdata["failure"][0])
            return []
        name = case_name(batchdata)
        try:
            return super()._iteration(engine, batchdata)
        except Exception as error:  # out of memory, a shape that the network cannot take, ...
            self.results.fail(name, error)
            return []


class MaskAndMapsd(MapTransform):
    """Part what inferers give: the mask under the key itself, probabilities and signed distance maps beside it.

    Args:
        keys: ``(C + 1, *spatial)`` or, with signed distance maps, ``(2 C + 1, *spatial)``.
        num_classes: number of foreground classes ``C``.
        keep_probability: keep the probabilities; without them a case takes a fraction of the memory.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, keep_probability: bool = False) -> None:
        super().__init__(keys)
        self.num_classes = num_classes
        self.keep_probability = keep_probability

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the key as the most probable of background and classes ``(1, *spatial)``, uint8.

        ``probability``, if kept, has the foreground classes ``(C, *spatial)``; ``sdm``, if there are such maps, too.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            probability, sdm = split_output(result[key], self.num_classes)
            result[key] = probability.argmax(0, keepdim=True).byte()
            if self.keep_probability:
                result["probability"] = probability[1:]
            if len(sdm):
                result["sdm"] = sdm
        return result


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
        layout = ResultLayout(output_dir, postfix, data_root_dir)
        super().__init__(keys, writer=ScanGridWriter, folder_layout=layout, squeeze_end_dims=False, **kwargs)
        self.results = results

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Queue the arrays of the keys for writing and return ``data`` as it is."""
        # what waits is only what is written, in main memory: the rest of a case would keep that of a GPU
        waiting = {key: data[key].cpu() for key in self.key_iterator(dict(data))}
        self.results.submit(case_name(data), self._save, waiting)
        return dict(data)

    def _save(self, data: dict[Hashable, Any]) -> None:
        try:
            super().__call__(data)  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # MONAI's holds a page of tracebacks, the cause in its last line
            raise OSError(f"a result cannot be written: {str(error).strip().splitlines()[-1]}") from None
