"""The seeded dataset, the collation of a two-stream batch, and its preparation for the trainer."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambda,
    LoadImaged,
    NormalizeIntensityd,
    RandFlipd,
    RandGaussianNoised,
    RandSpatialCropd,
    ScaleIntensityd,
    ToTensord,
    Transform,
)
from torch import Tensor

import simcvd_bundle
from simcvd_bundle.data.batches import SampleIndex, StreamBatchSampler, collate_streams, prepare_batch
from simcvd_bundle.data.cache import DiskCacheDataset
from simcvd_bundle.data.transforms import ClassIndicesd, SignedDistanceMapd

SIZE, PATCH, CASES, NUM_LABELED = 10, 6, 5, 2

Make = Callable[[], DiskCacheDataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[[], DiskCacheDataset]:
    """Maker of datasets over one cache."""
    return partial(volumes, str(tmp_path))


def volumes(cache_dir: str) -> DiskCacheDataset:
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
    return DiskCacheDataset(items, transform, cache_dir, progress=False)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


STREAMS = {"labeled": 1, "unlabeled": 2}


def batches(dataset: DiskCacheDataset, num_workers: int, start: int = 0) -> list[dict[str, Tensor]]:
    """Batches with entries by ``stream.entry``."""
    sampler = StreamBatchSampler(dataset, STREAMS, num_iterations=4, seed=1)
    sampler.start = start
    collate = partial(collate_streams, streams=STREAMS)
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=num_workers)
    return [{f"{s}.{key}": value for s, part in batch.items() for key, value in part.items()} for batch in loader]


def test_sample_depends_on_its_index_alone(make_dataset: Make) -> None:
    """Not on what was fetched before, from which dataset object, nor on the global random state."""
    dataset, other = make_dataset(), make_dataset()
    first = dataset[SampleIndex(1, 7)]
    for index in (SampleIndex(0, 3), 1, SampleIndex(4, 7)):
        dataset[index]
    torch.manual_seed(5)
    assert equal(dataset[SampleIndex(1, 7)], first)
    assert equal(other[SampleIndex(1, 7)], first)


def test_seed_and_case_matter(make_dataset: Make) -> None:
    dataset = make_dataset()
    first = dataset[SampleIndex(1, 7)]
    assert not equal(dataset[SampleIndex(1, 8)], first)
    assert not equal(dataset[SampleIndex(0, 7)], first)
    assert "label" not in dataset[SampleIndex(3, 7)]


def test_largest_seed_is_accepted(make_dataset: Make) -> None:
    dataset = make_dataset()
    assert equal(dataset[SampleIndex(0, 2**32 - 1)], dataset[SampleIndex(0, 2**32 - 1)])


def test_plain_indices_work_as_in_monai(make_dataset: Make) -> None:
    dataset = make_dataset()
    assert dataset[2]["image"].shape == (1, PATCH, PATCH, PATCH)
    assert len(dataset) == CASES
    assert len(dataset[1:3]) == 2


def test_batches_do_not_depend_on_workers_or_on_resuming(make_dataset: Make) -> None:
    without, with_two, resumed = (batches(make_dataset(), *args) for args in ((0,), (2,), (2, 2)))
    assert len(without) == 4
    assert all(equal(a, b) for a, b in zip(without, with_two, strict=True))
    assert all(equal(a, b) for a, b in zip(without[2:], resumed, strict=True))
    assert not torch.equal(without[0]["labeled.image"], without[1]["labeled.image"])


def test_collation_stacks_each_stream() -> None:
    items: list[dict[str, Any]] = [{"image": MetaTensor(torch.full((2, 3, 4, 5), float(i)))} for i in range(5)]
    for i, item in enumerate(items[:3]):  # the third is labelled too, as when labelled cases feed both streams
        item |= {"label": MetaTensor(torch.full((1, 3, 4, 5), 10.0 + i)), "sdm": torch.full((4, 3, 4, 5), 20.0 + i)}
    batch = collate_streams(items, {"labeled": 2, "unlabeled": 3})
    shapes = {stream: {key: tuple(value.shape) for key, value in part.items()} for stream, part in batch.items()}
    assert shapes == {
        "labeled": {"image": (2, 2, 3, 4, 5), "label": (2, 1, 3, 4, 5), "sdm": (2, 4, 3, 4, 5)},
        "unlabeled": {"image": (3, 2, 3, 4, 5)},
    }
    assert all(type(value) is Tensor for part in batch.values() for value in part.values())
    first = {(s, key): value[:, 0, 0, 0, 0].tolist() for s, part in batch.items() for key, value in part.items()}
    assert first == {
        ("labeled", "image"): [0, 1], ("unlabeled", "image"): [2, 3, 4], ("labeled", "label"): [10, 11],
        ("labeled", "sdm"): [20, 21],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("streams", "names"), [({"labeled": 2, "unlabeled": 0}, {"labeled"}), ({"unlabeled": 2}, {"unlabeled"})]
)
def test_a_batch_may_have_one_stream(streams: dict[str, int], names: set[str]) -> None:
    volume = torch.zeros(1, 2, 2, 2)
    items = [{"image": volume, "label": volume, "sdm": volume}] * 2
    assert collate_streams(items, streams).keys() == names


def test_collation_needs_the_label_of_a_labelled_patch() -> None:
    with pytest.raises(KeyError, match="label"):
        collate_streams([{"image": torch.zeros(1, 2, 2, 2)}], {"labeled": 1})


def test_prepare_batch_splits_image_and_target() -> None:
    volume = torch.ones(1, 1, 2, 2, 2)
    batch = {
        "labeled": {"image": volume, "label": volume, "sdm": volume},
        "unlabeled": {"image": volume.expand(2, -1, -1, -1, -1)},
    }
    inputs, target = prepare_batch(batch, device="meta", non_blocking=True, dtype=torch.float64)
    assert {stream: len(part["image"]) for stream, part in inputs.items()} == {"labeled": 1, "unlabeled": 2}
    assert {stream: set(part) for stream, part in target.items()} == {"labeled": {"label", "sdm"}, "unlabeled": set()}
    assert inputs["labeled"].keys() == {"image", "label", "sdm"}  # a mix needs the labels
    moved = [*inputs["unlabeled"].values(), *target["labeled"].values()]
    assert {t.device.type for t in moved} == {"meta"}
    assert {t.dtype for t in moved} == {torch.float64}
    assert set(batch["labeled"]) == {"image", "label", "sdm"}
    inputs, target = prepare_batch(batch)
    assert inputs["labeled"]["image"] is volume
    assert target["labeled"]["sdm"] is volume


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.random.RandomState(0).rand(4, 5, 6).astype(np.float32), np.eye(4)), path)
    return path


class Counted(LoadImaged):
    """Reader that counts its calls."""

    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        type(self).calls += 1
        return super().__call__(*args, **kwargs)


def cached(scan: Path, *more: Any, **item: Any) -> tuple[DiskCacheDataset, int]:
    """Dataset of one case, and how often its file was read for it."""
    Counted.calls = 0
    transform = Compose([Counted("image", ensure_channel_first=True), *more, RandFlipd("image", prob=0.5)])
    dataset = DiskCacheDataset([{"image": str(scan), **item}], transform, str(scan.parent / "cache"), progress=False)
    return dataset, Counted.calls


def test_cached_sample_equals_the_transforms_applied_directly(scan: Path) -> None:
    dataset, _ = cached(scan, NormalizeIntensityd("image"))
    for seed in range(4):
        dataset.transform.set_random_state(seed=seed)
        direct = dataset.transform({"image": str(scan)})["image"]
        sample = dataset[SampleIndex(0, seed)]["image"]
        assert torch.equal(sample.as_tensor(), direct.as_tensor())


def test_second_start_reads_nothing_and_a_change_reads_again(scan: Path) -> None:
    assert cached(scan)[1] == 1
    dataset, calls = cached(scan)
    assert calls == 0
    first = dataset[0]["image"].abs().sum()
    assert cached(scan, ScaleIntensityd("image"))[1] == 1  # other transforms
    assert cached(scan, ScaleIntensityd("image", maxv=2.0))[1] == 1  # the same with another argument
    assert cached(scan, other="entry")[1] == 1  # another item
    array = np.ones((4, 5, 6), np.float32)
    array[0, 0, :2] = 0, 2
    nib.save(nib.Nifti1Image(array, np.eye(4)), scan)
    dataset, calls = cached(scan)  # another file under the same name
    assert calls == 1
    assert dataset[0]["image"].abs().sum() == 120 != first


@pytest.mark.parametrize("module", ["transforms", "cases", "cache"])
def test_a_change_of_our_code_reads_again(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    mask = scan.parent / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.eye(4, 5, dtype=np.uint8)[..., None].repeat(6, -1), np.eye(4)), mask)
    transforms = (LoadImaged("label", ensure_channel_first=True), ClassIndicesd("label", 1))
    assert [cached(scan, *transforms, label=str(mask))[1] for _ in range(2)] == [1, 0]
    loaded = sys.modules[f"simcvd_bundle.data.{module}"]
    changed = tmp_path / f"{module}.py"
    changed.write_text(Path(str(loaded.__file__)).read_text() + "# another line\n")
    monkeypatch.setattr(loaded, "__file__", str(changed))
    assert [cached(scan, *transforms, label=str(mask))[1] for _ in range(2)] == [1, 0]


def test_another_version_of_ours_reads_again(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cached(scan)[1] == 1
    monkeypatch.setattr(simcvd_bundle, "__version__", "next")
    assert [cached(scan)[1] for _ in range(2)] == [1, 0]


def test_a_change_of_a_users_transform_reads_again(scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = "class Scaled:\n    def __call__(self, data):\n        return {'image': data['image'] * %d}\n"
    calls, samples = [], []
    for factor in (2, 2, 3):
        (tmp_path / "of_a_user.py").write_text(code % factor)
        monkeypatch.delitem(sys.modules, "of_a_user", raising=False)
        scaled = importlib.import_module("of_a_user").Scaled()
        dataset, count = cached(scan, Lambda(scaled))
        calls.append(count)
        samples.append(dataset[0]["image"].abs().sum())
    assert calls == [1, 0, 1]
    assert samples[2] == pytest.approx(1.5 * samples[0])


def test_transforms_typed_in_a_notebook_are_cached_for_one_run(scan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their code is in no file that could be compared."""
    typed = type("Typed", (ScaledBy,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Typed", typed, raising=False)
    for file, calls in ((__file__, [1, 0]), (None, [1, 1])):
        monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
        assert [cached(scan, typed(1.0))[1] for _ in range(2)] == calls


class Read(Transform):
    """Stands for the reading of a series."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return {"image": torch.arange(8.0).view(1, 2, 2, 2)}


def test_folder_of_a_series_is_read_again_when_one_of_its_files_changes(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "slice").write_text("a")
    names = []
    for text in ("a", "a", "ab"):
        if (tmp_path / "series" / "slice").read_text() != text:
            (tmp_path / "series" / "slice").write_text(text)
        transform = Compose([Read(), RandFlipd("x", allow_missing_keys=True)])
        names.append(DiskCacheDataset([{"image": str(tmp_path / "series")}], transform, str(tmp_path / "c")).files[0])
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("named", ["a.raw", "LIST\na.raw\na.raw", "%s.raw 1 1 1"])
def test_a_header_is_read_again_when_the_file_with_its_voxels_changes(tmp_path: Path, named: str) -> None:
    header, voxels = tmp_path / "a.mhd", tmp_path / ("1.raw" if "%" in named else "a.raw")
    header.write_text(f"NDims = 3\nElementDataFile = {named.replace('%s', '%d')}\n")
    names = []
    for content in (b"1", b"1", b"2 again"):
        if not voxels.is_file() or voxels.read_bytes() != content:
            voxels.write_bytes(content)
        transform = Compose([Read(), RandFlipd("x", allow_missing_keys=True)])
        names.append(DiskCacheDataset([{"image": str(header)}], transform, str(tmp_path / "c")).files[0])
    assert names[0] == names[1] != names[2]
    voxels.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.mhd has its voxels in .*\.raw, which does not exist"):
        DiskCacheDataset([{"image": str(header)}], Compose([Read()]), str(tmp_path / "c"))


def test_unreadable_case_is_named_before_training(scan: Path) -> None:
    scan.write_bytes(scan.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"The case .*scan\.nii\.gz cannot be used: "):
        cached(scan)
    assert not (scan.parent / "cache").exists()


def test_damaged_cached_case_is_made_anew(scan: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, _ = cached(scan)
    good = dataset[SampleIndex(0, 0)]["image"].clone()
    for content in (b"", dataset.files[0].read_bytes()[:400]):
        dataset.files[0].unlink()  # not written over: a sample is a map of the file
        dataset.files[0].write_bytes(content)
        assert torch.equal(dataset[SampleIndex(0, 0)]["image"].as_tensor(), good.as_tensor())
        assert f"{dataset.files[0]} cannot be read" in caplog.text
        caplog.clear()
        dataset[0]
        assert not caplog.text


def test_transforms_that_cannot_be_told_apart_are_cached_for_one_run(scan: Path) -> None:
    """A lambda has no content to compare, so a later run must not take what it made."""
    assert [cached(scan, ScaledBy(1.0))[1] for _ in range(2)] == [1, 0]
    assert [cached(scan, ScaledBy(lambda: None))[1] for _ in range(2)] == [1, 1]
    dataset, _ = cached(scan, ScaledBy(lambda: None))
    assert dataset.files[0].is_file()
    folder = dataset.files[0].parent
    del dataset
    assert not folder.exists()


class ScaledBy(ToTensord):
    """Deterministic transform that holds what may not be pickled."""

    def __init__(self, factor: Any) -> None:
        super().__init__("image")
        self.factor = factor


def test_of_a_large_case_a_random_box_is_read(tmp_path: Path) -> None:
    image = np.arange(12 * 6 * 9, dtype=np.float32).reshape(12, 6, 9)
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(image % 2, np.eye(4)), tmp_path / "b.nii")
    load = Compose([LoadImaged(["image", "label"]), EnsureChannelFirstd(["image", "label"])])
    item = {"image": str(tmp_path / "a.nii"), "label": str(tmp_path / "b.nii")}
    dataset = DiskCacheDataset([item], load, str(tmp_path / "cache"), progress=False, region=[4, 8, 5])
    boxes = [dataset[SampleIndex(0, seed)] for seed in range(20)]
    for box in boxes:
        assert box["image"].shape == (1, 4, 6, 5)
        assert torch.equal(box["image"] % 2, box["label"])
        first = int(box["image"].min())
        corner = np.array(np.unravel_index(first, image.shape))
        assert box["image"][0].tolist() == image[corner[0] : corner[0] + 4, :, corner[2] : corner[2] + 5].tolist()
    assert len({int(box["image"].min()) for box in boxes}) > 10
    assert torch.equal(dataset[SampleIndex(0, 3)]["image"], boxes[3]["image"])


class Stateful(Transform):
    """Keeps what it reads, as MONAI's readers do."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        self.number = data["image"]
        time.sleep(0.01)
        return {"image": self.number + torch.arange(8.0).reshape(1, 2, 2, 2)}


def test_cases_read_in_threads_are_not_mixed_up(tmp_path: Path) -> None:
    data = [{"image": number} for number in range(8)]
    dataset = DiskCacheDataset(data, Compose([Stateful()]), str(tmp_path / "c"), num_workers=4, progress=False)
    assert [int(dataset[number]["image"].min()) for number in range(8)] == list(range(8))


def test_unlabeled_data_follow_without_their_labels(scan: Path) -> None:
    mask = scan.parent / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.eye(4, 5, dtype=np.uint8)[..., None].repeat(6, -1), np.eye(4)), mask)
    item = {"image": str(scan), "label": str(mask)}
    keys = ["image", "label"]
    transform = Compose([LoadImaged(keys, allow_missing_keys=True), EnsureChannelFirstd(keys, allow_missing_keys=True)])
    dataset = DiskCacheDataset([item], transform, str(scan.parent / "c"), progress=False, unlabeled_data=[item, item])
    assert ["label" in dataset[index] for index in range(len(dataset))] == [True, False, False]
    assert torch.equal(dataset[0]["image"], dataset[2]["image"])
