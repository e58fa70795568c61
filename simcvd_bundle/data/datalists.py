"""Datalists: the cases of a data set, and which of them count as labelled."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import load_decathlon_datalist

from simcvd_bundle.data.class_names import compare_names, names_of_datalist
from simcvd_bundle.data.names import IMAGE_SUFFIXES
from simcvd_bundle.data.scans import Item
from simcvd_bundle.data.sources import data_files
from simcvd_bundle.data.subjects import check_subjects, file_of, require_whole_subjects

logger = logging.getLogger(__name__)


def load_datalist(
    dataset_dir: str, section: str, datalist: str = "dataset.json", num_labeled: int | None = None,
    optional: bool = False, require_labels: bool = False, class_names: Mapping[str, str] | None = None,
    label_values: Mapping[str, int] | None = None,
) -> list[Item]:  # fmt: skip
    """Read one section of an MSD-style datalist; paths in it are relative to ``dataset_dir``.

    Sections are those of the file (``training``, ``validation``, ``test``) and three views of ``training``:
    ``labeled``, the items that train with their label, ``unlabeled``, the items whose label the file knows but training
    does not see (for transductive evaluation), and ``images``, all items without their labels (for pre-training). Where
    items have a ``subject``, a subject belongs to one section, and ``num_labeled`` may not part its labelled scans.

    Args:
        dataset_dir: folder of the data.
        section: name of the section.
        datalist: file name inside ``dataset_dir`` or an absolute path.
        num_labeled: keep the labels of the first n items of ``training`` only; ``None`` keeps all.
        optional: a missing section is empty instead of an error.
        require_labels: an item without label is an error (validation, evaluation).
        class_names: names to compare with the file's ``labels``, see `compare_names`; ``None`` compares nothing.
        label_values: class of each value of the label files, for this comparison.

    Returns:
        Items with absolute paths ``image`` and, if labelled, ``label``.

    Raises:
        FileNotFoundError: when the datalist, a file named in it or one that holds its voxels (`data_files`) is missing.
        ValueError: when it is no JSON, the section is missing, an entry is none, repeated, outside ``dataset_dir`` or
            of an unknown format, ``num_labeled`` exceeds the labelled items or leaves no item for ``unlabeled``, or a
            required label is missing, a name of the file's ``labels`` stands at another value than in ``class_names``,
            or a split parts the scans of a subject.
    """
    path = Path(dataset_dir, datalist)
    if not path.is_file():
        raise FileNotFoundError(
            f"No datalist {path}: set dataset_dir to the folder that holds it, or datalist to its name. "
            "`python -m simcvd_bundle prepare --help` makes one from published data."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The datalist {path} is not valid JSON: {error}. Mend it there.") from error
    if not isinstance(content, dict):
        raise ValueError(f'The datalist {path} is not a JSON object of sections, such as {{"training": [...]}}.')
    compare_names(names_of_datalist(content), class_names or {}, label_values, f"The datalist {path}")
    in_file = "training" if section in ("labeled", "unlabeled", "images") else section
    if not content.get(in_file):
        if optional:
            return []
        sections = ", ".join(key for key, value in content.items() if isinstance(value, list) and value) or "none"
        raise ValueError(
            f"The datalist {path} has no cases in section {in_file!r}; sections with cases: {sections}. Add cases, or "
            "choose another section."
        )
    try:
        _check_entries(content[in_file], in_file, Path(dataset_dir))
    except ValueError as error:
        raise ValueError(f"Section {in_file!r} of the datalist {path}: {error}") from error
    _check_subjects(content, path)
    folder = Path(dataset_dir).resolve()
    items: list[Item] = load_decathlon_datalist(str(path), True, in_file, base_dir=str(folder))
    for item in items:
        for key in item.keys() & {"image", "label"}:
            several = isinstance(item[key], list)
            files = [_below(file, folder) for file in (item[key] if several else [item[key]]) if file is not None]
            for file in files:
                if not Path(file).exists():
                    raise FileNotFoundError(
                        f"{file}, named in section {in_file!r} of {path}, does not exist: add it, or remove the case."
                    )
                data_files(Path(file))
            item[key] = files if several else files[0] if files else None
    if section == "images":
        items = [{key: value for key, value in item.items() if key != "label"} for item in items]
    elif in_file == "training":
        items = _split(items, section, num_labeled, path)
    if not items and not optional:
        raise ValueError(
            f"Section {section!r} of {path} is empty, as every case with a label trains with it: set num_labeled as in "
            "the training, or choose another section."
        )
    without = [item["image"] for item in items if item.get("label") is None]
    if require_labels and without:
        raise ValueError(
            f"{len(without)} of {len(items)} cases in section {section!r} of {path} have no label, {without[0]} first: "
            "choose another section ('labeled' and 'unlabeled' are the two parts of 'training' that have labels)."
        )
    return items


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {repeated[0]!r} occurs twice in one object")
    return dict(pairs)


def _check_entries(entries: Any, section: str, folder: Path) -> None:
    """Refuse what is no list of cases, repeated cases, and files outside ``folder`` or of unknown formats."""
    if not isinstance(entries, list):
        raise ValueError(f"it is a {type(entries).__name__}, not a list of cases.")
    if section == "test" and all(isinstance(entry, str) for entry in entries):  # MSD's form
        entries = [{"image": entry} for entry in entries]
    seen: dict[tuple[str, ...], bool] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or "image" not in entry:
            raise ValueError(f"entry {number}, {json.dumps(entry)[:100]}, has no image: give each case a file `image`.")
        images, labels = _named_files(entry, "image", number, folder), _named_files(entry, "label", number, folder)
        if not images:
            raise ValueError(f"entry {number}, {json.dumps(entry)[:100]}, names no image file.")
        if set(images) & set(labels):
            raise ValueError(f"{images[0]} is image and label of entry {number}: give the label a file of its own.")
        if images in seen:
            kinds = "once with and once without label" if seen[images] != bool(labels) else "twice"
            raise ValueError(f"the case {images[0]} is listed {kinds}: remove one of the two entries.")
        seen[images] = bool(labels)


def _check_subjects(content: Mapping[str, Any], path: Path) -> None:
    lists = {key: value for key, value in content.items() if isinstance(value, list)}
    sections = {key: [e for e in value if isinstance(e, dict) and "image" in e] for key, value in lists.items()}
    try:
        check_subjects(sections)
    except ValueError as error:
        raise ValueError(f"In the datalist {path} {error}") from error


def _named_files(entry: Mapping[str, Any], key: str, number: int, folder: Path) -> tuple[str, ...]:
    value = entry.get(key)
    files = value if isinstance(value, list) else [] if value is None else [value]
    for file in files:
        if not isinstance(file, str) or not file or "\0" in file:
            raise ValueError(f"{key} of entry {number} is {value!r}: expected the name of a file.")
        if ".." in Path(os.path.relpath(_below(folder / file, folder), folder)).parts:
            raise ValueError(
                f"{file} of entry {number} lies outside dataset_dir {folder}: move or link it there, or set "
                "dataset_dir to a folder that holds all files."
            )
        if not file.lower().endswith(IMAGE_SUFFIXES) and not (folder / file).is_dir() and (folder / file).exists():
            raise ValueError(
                f"{file} of entry {number} is no image: expected a file ending in {', '.join(IMAGE_SUFFIXES)} or a "
                "folder of DICOM files."
            )
    return tuple(os.path.relpath(_below(folder / file, folder), folder) for file in files)


def _below(file: str | Path, folder: Path) -> str:
    """The path of a file by way of ``folder``, where links have several names for the folder; else as it is."""
    if Path(os.path.normpath(file)).is_relative_to(folder):
        return str(file)
    real, root = Path(file).resolve(), folder.resolve()
    return str(folder / real.relative_to(root)) if real.is_relative_to(root) else str(file)


def _split(items: list[Item], section: str, num_labeled: int | None, path: Path) -> list[Item]:
    known = [item for item in items if item.get("label") is not None]
    if not known:
        raise ValueError(f"No case in section 'training' of {path} has a label: add the labels of some, or all.")
    kept = len(known) if num_labeled is None else num_labeled
    if not isinstance(kept, int) or not 1 <= kept <= len(known):
        raise ValueError(
            f"num_labeled is {num_labeled}, but section 'training' of {path} has {len(known)} labelled cases: "
            "choose 1 to that number."
        )
    try:
        require_whole_subjects(known[:kept], known[kept:])
    except ValueError as error:
        raise ValueError(f"In the datalist {path} {error}") from error
    if section == "unlabeled":
        return known[kept:]
    labeled = known[:kept]
    if section == "labeled":
        return labeled
    kept_ids = {id(item) for item in labeled}
    return [item if id(item) in kept_ids else {k: v for k, v in item.items() if k != "label"} for item in items]


def common_folder(items: Sequence[Item]) -> str:
    """The deepest folder that holds the images of all items, of several files the first; empty without items.

    Results that keep their image's path below it (``data_root_dir`` of `result_file`) differ where names are equal.
    """
    images = [file_of(item) for item in items]
    return os.path.commonpath([os.path.dirname(image) for image in images]) if images else ""
