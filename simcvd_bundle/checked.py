"""Datasets that check their cases, so that a bad one is named: before training starts, or at the end of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset
from monai.transforms import Compose

from simcvd_bundle.cases import case_name, check_case, first_cause


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

    def _transform(self, index: int) -> Any:
        return self.prepared(index)

    def prepared(self, index: int, end: int | None = None) -> Any:
        """Case after the transforms before number ``end``, checked."""
        try:
            item = self.transform(dict(self.data[index]), end=end)
            check_case(item, self.in_channels, self.num_classes)
        except Exception as error:  # whatever a reader or a transform raises
            raise ValueError(f"The case {case_name(self.data[index])} cannot be used: {first_cause(error)}") from error
        return item


class SkippedCases(CheckedDataset):
    """Cases of which an unreadable one gives its name as ``image`` and the reason as ``failure`` (see ``Failures``)."""

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except ValueError as error:
            return {"image": case_name(self.data[index]), "failure": str(first_cause(error))}


def check_all(dataset: CheckedDataset) -> None:
    """Load every case once, so that a bad one ends the run before training starts.

    Raises:
        ValueError: with all cases that cannot be used.
    """
    raise_all([problem(dataset.__getitem__, index) for index in range(len(dataset))])


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
