"""Classes of scans: what a datalist may say of them, weights, and batches."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from simcvd_bundle.data.classes import (
    UNKNOWN,
    ScanBatchSampler,
    class_weights,
    collate_scans,
    load_classes,
    scans_without_class,
)

CLASSES = ["healthy", "ill"]
ITEMS = [("a1", "a", "healthy"), ("a2", "a", "healthy"), ("b1", "b", "ill"), ("c1", "c", "ill")]


def write(folder: Path, items: list[tuple[str, Any, Any]], section: str = "training") -> str:
    entries = [{"image": f"{name}.nii.gz", "subject": who, "class": group} for name, who, group in items]
    for entry in entries:
        (folder / entry["image"]).touch()
    content = {section: [{key: value for key, value in entry.items() if value is not None} for entry in entries]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


def test_items_have_the_index_of_their_class_and_no_label(tmp_path: Path) -> None:
    items = load_classes(write(tmp_path, ITEMS), "training", CLASSES)
    assert [(item["class"], item["subject"], item["number"]) for item in items] == [
        (0, "a", 0), (0, "a", 1), (1, "b", 2), (1, "c", 3),
    ]  # fmt: skip
    assert {key for item in items for key in item} == {"image", "subject", "class", "number"}
    assert len(load_classes(str(tmp_path), "training", CLASSES, num_labeled=3)) == 3
    assert load_classes(str(tmp_path), "validation", CLASSES, optional=True) == []


@pytest.mark.parametrize(
    ("items", "settings", "message"),
    [
        ([*ITEMS, ("d1", "d", None)], {}, r"d1\.nii\.gz in section 'training' .* has no `class`: .*healthy, ill"),
        ([*ITEMS, ("d1", "d", "dead")], {}, r"d1\.nii\.gz .* is of class 'dead', but classes names healthy, ill only"),
        (ITEMS[:2], {}, "All 2 cases .* are healthy: nothing to tell apart"),
        ([*ITEMS, ("a3", "a", "ill")], {}, "Subject 'a' .* is of the classes healthy and ill"),
        (ITEMS, {"classes": ["ill"]}, "classes must be two or more different names"),
        (ITEMS, {"classes": ["ill", "ill"]}, "classes must be two or more different names"),
        (ITEMS, {"num_labeled": 5}, "num_labeled is 5, but .* has 4 cases"),
        (ITEMS, {"num_labeled": 1}, "num_labeled 1 keeps the labels of some scans of subject 'a'"),
    ],
)
def test_bad_classes_are_named(
    tmp_path: Path, items: list[tuple[str, Any, Any]], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_classes(write(tmp_path, items), "training", **{"classes": CLASSES, **settings})


@pytest.mark.parametrize(
    ("num_labeled", "known", "others"),
    [(None, ["a1", "a2", "b1", "c1"], ["d1", "e1"]), (2, ["a1", "a2"], ["d1", "b1", "c1", "e1"])],
)
def test_scans_without_a_class_follow_where_they_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_labeled: int | None, known: list[str], others: list[str]
) -> None:
    """Those whose class is hidden too, of any name; the number is the place."""
    items: list[tuple[str, Any, Any]] = [*ITEMS[:2], ("d1", "d", None), *ITEMS[2:], ("e1", "e", None)]
    with caplog.at_level("INFO"):
        found = load_classes(write(tmp_path, items), "training", CLASSES, num_labeled=num_labeled, unlabeled=True)
    names = {kind: [Path(i["image"]).name[:2] for i in found if ("class" in i) == kind] for kind in (True, False)}
    assert names == {True: known, False: others}
    assert [item["number"] for item in found] == list(range(6))
    assert f"labeled scans={len(known)}, unlabeled scans={len(others)}" in caplog.text


def test_without_a_scan_of_unknown_class_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert load_classes(write(tmp_path, ITEMS), "training", CLASSES, unlabeled=True) == load_classes(
            str(tmp_path), "training", CLASSES
        )
    assert "No unlabeled scan: the labeled ones alone" in caplog.text


def test_no_class_at_all_is_enough_for_a_teacher(tmp_path: Path) -> None:
    items = load_classes(write(tmp_path, [(*item[:2], None) for item in ITEMS]), "training", CLASSES, unlabeled=True)
    assert [set(item) for item in items] == [{"image", "subject", "number"}] * 4
    with pytest.raises(ValueError, match=r"num_labeled is 1, but .* has 0 cases with a `class`"):
        load_classes(str(tmp_path), "training", CLASSES, num_labeled=1, unlabeled=True)


def test_one_class_is_enough_for_a_test(tmp_path: Path) -> None:
    assert len(load_classes(write(tmp_path, ITEMS[:2], "test"), "test", CLASSES)) == 2


def test_scans_of_a_folder_have_no_class(tmp_path: Path) -> None:
    write(tmp_path, ITEMS)
    items = scans_without_class(str(tmp_path))
    assert [item["number"] for item in items] == [0, 1, 2, 3]
    assert not any("class" in item for item in items)
    scans = [{"image": torch.zeros(1, 2, 2, 2), **item} for item in ({"number": 0}, {"number": 3, "class": 1})]
    batch = collate_scans(scans)["scans"]
    assert batch["image"].shape == (2, 1, 2, 2, 2)
    assert (batch["number"].tolist(), batch["class"].tolist()) == ([0, 3], [UNKNOWN, 1])


def test_weights_of_classes() -> None:
    """Balanced: the sum over the cases of each class is the same, their mean over the cases 1."""
    items = [{"class": index} for index in (0, 0, 0, 1)]
    weights = class_weights(items, CLASSES)
    assert weights == pytest.approx([4 / 6, 2.0])
    assert sum(weights[item["class"]] for item in items) == pytest.approx(4)
    assert class_weights([*items, {"image": "unknown"}], CLASSES) == weights
    assert class_weights(items, CLASSES, None) == [1, 1]
    assert class_weights(items, CLASSES, [1, 3]) == [1, 3]
    with pytest.raises(ValueError, match="No training case is of class 'third'"):
        class_weights(items, [*CLASSES, "third"])
    for wrong in ([1], [1, -1], "equal", [0, 0]):
        with pytest.raises(ValueError, match=r"class_weights is .* 'balanced', null or 2 numbers"):
            class_weights(items, CLASSES, wrong)


def test_scans_take_turns_and_processes_share_a_batch() -> None:
    data: Any = SimpleNamespace(data=[{"image": str(n)} for n in range(5)])
    whole = list(ScanBatchSampler(data, 4, 10))
    order = [sample.case for batch in whole for sample in batch]
    assert all(sorted(order[first : first + 5]) == list(range(5)) for first in range(0, 40, 5))
    parts = [list(ScanBatchSampler(data, 2, 10, rank=rank, world_size=2)) for rank in range(2)]
    assert whole == [a + b for a, b in zip(*parts, strict=True)]
    with pytest.raises(ValueError, match="batch_size is 1, but must be an integer of at least 2"):
        ScanBatchSampler(data, 1, 10)
