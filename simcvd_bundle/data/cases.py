"""What makes a case usable: one volume of finite, varying intensities, and a label of known classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.data import Dataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose
from torch import Tensor

from simcvd_bundle.data.subjects import file_of
from simcvd_bundle.data.transforms import ClassIndices
from simcvd_bundle.utils.errors import root_cause


def check_case(item: Mapping[str, Any], in_channels: int, num_classes: int) -> None:
    """Refuse a case that cannot train a network or be segmented by one.

    Args:
        item: ``image`` ``(in_channels, H, W, D)`` and, if labelled, ``label`` ``(1, H, W, D)``, loaded and normalised.
        in_channels: channels that the network expects.
        num_classes: number of foreground classes.

    Raises:
        ValueError: with what is wrong and what to do; the caller names the case.
    """
    image = item["image"]
    if image.ndim != 4 or not all(image.shape):
        raise ValueError(
            f"the image has shape {tuple(image.shape)} (channels first): one non-empty 3D volume is expected, so cut "
            "time series and slices into volumes, or remove the case."
        )
    if image.shape[0] != in_channels:
        raise ValueError(
            f"the image has {image.shape[0]} channels, but in_channels is {in_channels}: set in_channels, or remove "
            "the case."
        )
    plain = torch.as_tensor(image)
    low, high = plain.min(), plain.max()  # NaN if there is one
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ValueError("the image has voxels that are NaN or infinite: replace them, or remove the case.")
    if low == high:
        raise ValueError(
            f"the image is constant ({float(low):g} everywhere, after normalisation): replace it, or remove the case."
        )
    label = item.get("label")
    if label is None:
        return
    if label.ndim == 4 and label.shape[0] != 1:
        raise ValueError(f"the label has {label.shape[0]} channels: one with the index of the class is expected.")
    ClassIndices(num_classes)(label)


def case_name(item: Any) -> str:
    """The file or files of an item's image; the shape of one that comes from no file."""
    image = item.get("image", item) if isinstance(item, Mapping) else item
    if isinstance(image, Tensor):
        file = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
        image = file or f"of shape {tuple(image.shape)}"
    return ", ".join(map(str, image)) if isinstance(image, list | tuple) else str(image)


class CheckedDataset(Dataset):
    """MONAI's ``Dataset``, but errors name the case, and a case that cannot be used is one (``check_case``).

    Args:
        data: items of the datalist.
        transform: all transforms.
        in_channels: channels that the network expects.
        num_classes: number of foreground classes.
    """

    def __init__(self, data: Sequence[Any], transform: Compose, in_channels: int, num_classes: int) -> None:
        super().__init__(data, transform)
        self.in_channels = in_channels
        self.num_classes = num_classes

    def check(self) -> None:
        """Load every case once, so that a bad one ends the run before training starts.

        Raises:
            ValueError: with all cases that cannot be used.
        """
        raise_all([problem(self.__getitem__, index) for index in range(len(self))])

    def _transform(self, index: int) -> Any:
        return self.prepared(index)

    def prepared(self, index: int, end: int | None = None) -> Any:
        """Case after the transforms before number ``end``, checked."""
        try:
            item = self.transform(dict(self.data[index]), end=end)
            check_case(item, self.in_channels, self.num_classes)
        except Exception as error:  # whatever a reader or a transform raises
            raise ValueError(f"The case {case_name(self.data[index])} cannot be used: {root_cause(error)}") from error
        return item


class SkippedCases(CheckedDataset):
    """Cases of which an unreadable one gives its name as ``image``, the reason as ``failure`` (``BatchEvaluator``).

    ``path`` is its file, of several the first, as results are named by.
    """

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except ValueError as error:
            item = self.data[index]
            failure = str(root_cause(error.__cause__ or error))
            return {"image": case_name(item), "path": file_of(item), "failure": failure}


def problem(function: Callable[[int], Any], index: int) -> ValueError | None:
    """The ``ValueError`` of a call, if it raises one."""
    try:
        function(index)
    except ValueError as error:
        return error
    return None


def raise_all(problems: Sequence[ValueError | None]) -> None:
    """Raise the problems of all cases, if there are any, as one."""
    found = [problem for problem in problems if problem is not None]
    if found:
        others = "".join(f"\n{problem}" for problem in found[1:10])
        more = f"\n... and {len(found) - 10} more" if len(found) > 10 else ""
        raise ValueError(f"{found[0]}{others}{more}") from found[0].__cause__
