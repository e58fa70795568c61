"""Classes of whole scans: the items that train, validate and test a classifier, and their batches."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.data.iterations import IterationSampler, SampleIndex, in_turn
from simcvd_bundle.data.scans import find_images
from simcvd_bundle.data.subjects import file_of, require_whole_subjects, scans_by_subject, subject_of

logger = logging.getLogger(__name__)

UNKNOWN = -100
"""Class of a scan without one in a batch: the index that torch's cross-entropy ignores."""


def load_classes(
    dataset_dir: str, section: str, classes: Sequence[str], datalist: str = "dataset.json",
    num_labeled: int | None = None, optional: bool = False, unlabeled: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Scans of a section of a datalist with the class of each.

    Args:
        dataset_dir: folder of the data.
        section: ``training``, ``validation`` or ``test``.
        classes: names of the classes, in the order of their indices.
        datalist: file name inside ``dataset_dir`` or an absolute path.
        num_labeled: keep the first n items only; ``None`` keeps all.
        optional: a missing section is empty instead of an error.
        unlabeled: for distillation: scans without a class, and those with one that ``num_labeled`` leaves out, follow
            as items without ``class``, instead of being an error and dropped. ``num_labeled`` counts scans with a class
            then. One class or none is enough, as the teacher tells them apart.

    Returns:
        Items with ``image``, ``subject``, ``class`` (index) and ``number`` (place in this list).

    Raises:
        FileNotFoundError: when a file is missing, see ``load_datalist``.
        ValueError: when the datalist cannot be used, ``classes`` are fewer than two or repeated, a scan has no class or
            an unknown one, a subject has two, ``num_labeled`` is out of range or parts a subject, or training has one
            class only.
    """
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be two or more different names, got {list(classes)}.")
    items = load_datalist(dataset_dir, "images" if section == "training" else section, datalist, optional=optional)
    where = f"section {section!r} of {datalist} in {dataset_dir}"
    known = [item for item in items if item.get("class") is not None] if unlabeled else items
    if num_labeled is not None:
        if type(num_labeled) is not int or not 1 <= num_labeled <= len(known):
            kind = "cases with a `class`" if unlabeled else "cases"
            raise ValueError(f"num_labeled is {num_labeled}, but {where} has {len(known)} {kind}: choose 1 to that.")
        require_whole_subjects(known[:num_labeled], known[num_labeled:])
        known = known[:num_labeled]
    found: list[dict[str, Any]] = []
    for number, item in enumerate(known):
        name = item.get("class")
        if name is None:
            raise ValueError(f"{file_of(item)} in {where} has no `class`: give it one of {', '.join(classes)}.")
        if name not in classes:
            raise ValueError(
                f"{file_of(item)} in {where} is of class {name!r}, but classes names {', '.join(classes)} only: "
                "add it there, or mend the datalist."
            )
        found.append(
            {"image": item["image"], "subject": subject_of(item), "class": classes.index(name), "number": number}
        )
    for who, scans in scans_by_subject(found).items():
        names = sorted({classes[found[scan]["class"]] for scan in scans})
        if len(names) > 1:
            raise ValueError(f"Subject {who!r} in {where} is of the classes {' and '.join(names)}: give it one.")
    if unlabeled:
        kept = {id(item) for item in known}
        others = [item for item in items if id(item) not in kept]
        logger.info("labeled scans=%d, unlabeled scans=%d", len(known), len(others))
        if not others:
            logger.info("No unlabeled scan: the labeled ones alone feed the unsupervised terms.")
        for number, item in enumerate(others, len(found)):
            found.append({"image": item["image"], "subject": subject_of(item), "number": number})
    elif section == "training" and len({item["class"] for item in found}) < 2:
        raise ValueError(f"All {len(found)} cases in {where} are {classes[found[0]['class']]}: nothing to tell apart.")
    return found


def scans_without_class(folder: str, in_channels: int = 1) -> list[dict[str, Any]]:
    """Scans of a folder (`find_images`) to classify, each a subject of its own, with their ``number``."""
    items = find_images(folder, in_channels)
    return [{"image": item["image"], "subject": file_of(item), "number": number} for number, item in enumerate(items)]


def class_weights(items: Sequence[Mapping[str, Any]], classes: Sequence[str], weights: Any = "balanced") -> list[float]:
    """Weight of each class in the loss.

    Args:
        items: the training items, see ``load_classes``; those without a class do not count.
        classes: names of the classes.
        weights: ``"balanced"``, inversely proportional to the number of items with mean 1 over the items; ``None``, 1
            each; or one number for each class.

    Raises:
        ValueError: when it is none of these, or a class to be balanced has no item.
    """
    if weights is None:
        return [1.0] * len(classes)
    if weights == "balanced":
        count = Counter(item["class"] for item in items if "class" in item)
        missing = [name for index, name in enumerate(classes) if not count[index]]
        if missing:
            raise ValueError(
                f"No training case is of class {missing[0]!r}: add cases, take it out of classes, or set class_weights."
            )
        return [count.total() / (len(classes) * count[index]) for index in range(len(classes))]
    numbers = isinstance(weights, list | tuple) and all(isinstance(w, int | float) and w >= 0 for w in weights)
    if not numbers or len(weights) != len(classes) or not sum(weights) > 0:
        raise ValueError(
            f"class_weights is {weights!r}, but must be 'balanced', null or {len(classes)} numbers of at least 0."
        )
    return [float(weight) for weight in weights]


class ScanBatchSampler(IterationSampler):
    """Batches of whole scans, which take turns in a new random order every time round.

    Args:
        dataset: its ``data`` is the datalist.
        batch_size: scans a batch and process.
        num_iterations: iterations of the whole training.
        seed: seed of the orders and of the transforms.
        rank: this process among ``world_size``.
        world_size: number of processes.

    Raises:
        ValueError: when ``batch_size`` is below 2, which batch norm cannot use, or the rank is out of its range.
    """

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, num_iterations: int, seed: int = 0, rank: int = 0,
        world_size: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(num_iterations, seed, rank, world_size)
        if type(batch_size) is not int or batch_size < 2:
            raise ValueError(f"batch_size is {batch_size!r}, but must be an integer of at least 2: scans a batch.")
        self.cases: Sequence[Mapping[str, Any]] = dataset.data  # type: ignore[attr-defined]
        self.batch_size = batch_size

    def batch(self, iteration: int) -> list[SampleIndex]:
        """Batch of one iteration (from 0) on this rank."""
        batch = []
        first = (iteration * self.world_size + self.rank) * self.batch_size
        for position in range(first, first + self.batch_size):
            case = in_turn(position, len(self.cases), self.seed)
            seed = np.random.SeedSequence([self.seed, 1, position]).generate_state(1)[0]
            batch.append(SampleIndex(case, int(seed)))
        return batch


def collate_scans(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """Stack scans and their numbers.

    Args:
        items: ``image`` ``(channels, H, W, D)`` of one shape, ``number`` and, where it is known, ``class``.

    Returns:
        Plain tensors in ``["scans"]``: ``image`` ``(B, channels, H, W, D)``, ``number`` and ``class`` ``(B,)``, int64,
        the class ``UNKNOWN`` where an item has none.
    """
    return {
        "scans": {
            "image": torch.stack([convert_to_tensor(item["image"], track_meta=False) for item in items]),
            "number": torch.tensor([item["number"] for item in items]),
            "class": torch.tensor([item.get("class", UNKNOWN) for item in items]),
        }
    }
