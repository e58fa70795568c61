"""The masks of an evaluation, as files that are found again by the image that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.transforms import SaveImage
from monai.utils.enums import CommonKeys
from monai.utils.misc import ImageMetaKey

from simcvd_bundle.data import FileValuesd
from simcvd_bundle.evaluation.handler import distinct_case_names
from simcvd_bundle.inference.batch import AtomicNibabelWriter

SUFFIX = ".nii.gz"


def result_files(cases: Sequence[Mapping[str, Any]], folder: str | Path, kind: str) -> dict[str, Path]:
    """The file of a result of each case.

    Args:
        cases: items of a datalist.
        folder: where the results lie.
        kind: ``seg`` or ``sdm``.

    Returns:
        Image (of several files the first) to ``NAME_KIND.nii.gz``, as inference names it after the image's file, below
        as many of the image's folders as it takes to tell equal names apart.
    """
    images = [case["image"][0] if isinstance(case["image"], list) else case["image"] for case in cases]
    stripped = {str(Path(image)): _without_suffix(Path(image)) for image in images}
    count = Counter(stripped.values())
    paths = {image: path if count[path] == 1 else image for image, path in stripped.items()}
    names = distinct_case_names(paths.values())
    return {image: Path(folder, f"{names[path].lstrip('/')}_{kind}{SUFFIX}") for image, path in paths.items()}


class SaveMasks:
    """Write the mask of every evaluated case, with the values of the label files, on the grid of the scan.

    Args:
        output_dir: folder to write to, see ``result_files``.
        cases: items of the datalist.
        values: class of each value of the label files, see ``ClassIndices``; none where they are class indices.
    """

    def __init__(self, output_dir: str, cases: Sequence[Mapping[str, Any]], values: Mapping[str, int]) -> None:
        self.files = result_files(cases, output_dir, "seg")
        self.file_values = FileValuesd(CommonKeys.PRED, values) if values else None
        self.save = SaveImage(
            writer=AtomicNibabelWriter, output_ext=SUFFIX, output_dtype="int32" if values else "uint8", resample=False,
            print_log=False,
        )  # fmt: skip

    def attach(self, engine: Engine) -> None:
        """Register the handler with an evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the masks of ``engine.state.output``, class indices of shape (1, H, W, D).

        Raises:
            OSError: when a file cannot be written.
        """
        for item in engine.state.output:  # type: ignore[union-attr]
            file = self.files[item[CommonKeys.IMAGE].meta[ImageMetaKey.FILENAME_OR_OBJ]]
            mask = item if self.file_values is None else self.file_values(item)
            try:
                self.save(mask[CommonKeys.PRED], filename=str(file).removesuffix(SUFFIX))
            except RuntimeError as error:  # MONAI's holds a page of tracebacks, the cause in its last line
                cause = str(error).strip().splitlines()[-1]
                raise OSError(f"{file} cannot be written ({cause}): make space, or set another output_dir.") from None


def _without_suffix(image: Path) -> str:
    """Without what MONAI's ``SaveImage`` takes away."""
    return str(image.with_name(image.name.removesuffix(".gz").rpartition(".")[0] or image.name))
