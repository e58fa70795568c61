"""The seeded dataset, the collation of a two-stream batch, and its preparation for the trainer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandSpatialCropd, ToTensord
from torch import Tensor

from simcvd_bundle.datasets import SeededCacheDataset, collate_two_streams, prepare_batch
from simcvd_bundle.samplers import SampleIndex, TwoStreamBatchSampler
from simcvd_bundle.transforms import SignedDistanceMapd

SIZE, PATCH, CASES, NUM_LABELED = 10, 6, 5, 2


def make_dataset() -> SeededCacheDataset:
    """Five volumes of random numbers, the first two labelled, with random crops, flips and noise."""
    generator = torch.Generator().manual_seed(0)
    items: list[dict[str, Any]] = [
        {"image": torch.randn(1, SIZE, SIZE, SIZE, generator=generator)} for _ in range(CASES)
    ]
    for item in items[:NUM_LABELED]:
        item["label"] = (item["image"] > 0).float()
    both: dict[str, Any] = {"keys": ["image", "label"], "allow_missing_keys": True}
    transform = Compose(
        [
            ToTensord(**both, track_meta=True),
            RandFlipd(**both, prob=0.5, spatial_axis=0),
            RandSpatialCropd(**both, roi_size=(PATCH,) * 3, random_size=False),
            RandGaussianNoised("image", prob=0.8, std=0.5),
            SignedDistanceMapd("label", allow_missing_keys=True),
        ]
    )
    return SeededCacheDataset(items, transform, progress=False)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def batches(num_workers: int, start: int = 0) -> list[dict[str, Tensor]]:
    dataset = make_dataset()
    sampler = TwoStreamBatchSampler(dataset, 1, 2, num_iterations=4, seed=1)
    sampler.start = start
    collate = partial(collate_two_streams, labeled_batch_size=1)
    return list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers))


def test_sample_depends_on_its_index_alone() -> None:
    """Not on what was fetched before, from which dataset object, nor on the global random state."""
    dataset, other = make_dataset(), make_dataset()
    first = dataset[SampleIndex(1, 7)]
    for index in (SampleIndex(0, 3), 1, SampleIndex(4, 7)):
        dataset[index]
    torch.manual_seed(5)
    assert equal(dataset[SampleIndex(1, 7)], first)
    assert equal(other[SampleIndex(1, 7)], first)


def test_seed_and_case_matter() -> None:
    dataset = make_dataset()
    first = dataset[SampleIndex(1, 7)]
    assert not equal(dataset[SampleIndex(1, 8)], first)
    assert not equal(dataset[SampleIndex(0, 7)], first)
    assert "label" not in dataset[SampleIndex(3, 7)]


def test_largest_seed_is_accepted() -> None:
    dataset = make_dataset()
    assert equal(dataset[SampleIndex(0, 2**32 - 1)], dataset[SampleIndex(0, 2**32 - 1)])


def test_plain_indices_work_as_in_monai() -> None:
    dataset = make_dataset()
    assert dataset[2]["image"].shape == (1, PATCH, PATCH, PATCH)
    assert len(dataset) == CASES
    assert len(dataset[1:3]) == 2


def test_batches_do_not_depend_on_workers_or_on_resuming() -> None:
    without, with_two, resumed = batches(0), batches(2), batches(2, start=2)
    assert len(without) == 4
    assert all(equal(a, b) for a, b in zip(without, with_two, strict=True))
    assert all(equal(a, b) for a, b in zip(without[2:], resumed, strict=True))
    assert not torch.equal(without[0]["image"], without[1]["image"])


def test_collation_stacks_images_and_the_labels_of_the_first() -> None:
    items: list[dict[str, Any]] = [{"image": MetaTensor(torch.full((2, 3, 4, 5), float(i)))} for i in range(5)]
    for i, item in enumerate(items[:3]):  # the third is labelled too, as when labelled cases feed both streams
        item |= {"label": MetaTensor(torch.full((1, 3, 4, 5), 10.0 + i)), "sdm": torch.full((4, 3, 4, 5), 20.0 + i)}
    batch = collate_two_streams(items, labeled_batch_size=2)
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "image": (5, 2, 3, 4, 5),
        "label": (2, 1, 3, 4, 5),
        "sdm": (2, 4, 3, 4, 5),
    }
    assert all(type(value) is Tensor for value in batch.values())
    assert batch["image"][:, 0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert batch["label"][:, 0, 0, 0, 0].tolist() == [10, 11]
    assert batch["sdm"][:, 0, 0, 0, 0].tolist() == [20, 21]


def test_collation_needs_the_label_of_a_labelled_patch() -> None:
    with pytest.raises(KeyError, match="label"):
        collate_two_streams([{"image": torch.zeros(1, 2, 2, 2)}], labeled_batch_size=1)


def test_prepare_batch_splits_image_and_target() -> None:
    batch = {"image": torch.zeros(3, 1, 2, 2, 2), "label": torch.ones(1, 1, 2, 2, 2), "sdm": torch.ones(1, 1, 2, 2, 2)}
    image, target = prepare_batch(batch, device="meta", non_blocking=True, dtype=torch.float64)
    assert image.shape == (3, 1, 2, 2, 2)
    assert set(target) == {"label", "sdm"}
    assert {t.device.type for t in (image, *target.values())} == {"meta"}
    assert {t.dtype for t in (image, *target.values())} == {torch.float64}
    assert set(batch) == {"image", "label", "sdm"}
    image, target = prepare_batch(batch)
    assert image is batch["image"]
    assert target["sdm"] is batch["sdm"]
