"""What all sources share: the split into sections, the loop over the cases, the index file, the summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from simcvd_bundle.commands.prepare.files import Case, Recipe, Report, inspect_case, write_case
from simcvd_bundle.utils.atomic import atomically

SECTIONS = ("training", "validation", "test")


def require_folders(output: Path, *sources: Path) -> None:
    """Check that the sources are folders and that the output is none of them."""
    for source in sources:
        if not source.is_dir():
            raise FileNotFoundError(f"{source} is not a folder: pass the folder of the downloaded dataset.")
        if source.resolve() == output.resolve():
            raise ValueError(f"output {output} is the source itself: choose another folder.")


def split_cases(names: Sequence[str], train_list: str | None, test_list: str | None) -> dict[str, str]:
    """Assign labelled cases to sections.

    Args:
        names: the labelled cases found.
        train_list: text file with one name a line, in the order wanted; None for all that are not in ``test_list``.
        test_list: the same for the test section; None for no test section.

    Returns:
        Section by name, in the order of the lists.

    Raises:
        FileNotFoundError: if a list does not exist.
        ValueError: if a name is listed twice, or is no labelled case.
    """
    test, train = _read_list(test_list), _read_list(train_list)
    if train_list is None:
        train = [name for name in names if name not in test]
    repeated = [name for name, count in Counter(train + test).items() if count > 1]
    if repeated:
        raise ValueError(f"listed twice (training and test must not share a case): {repeated}")
    absent = [name for name in train + test if name not in names]
    if absent:
        raise ValueError(f"listed, but not found with a label in the source: {absent}. Complete the download.")
    return dict.fromkeys(train, "training") | dict.fromkeys(test, "test")


def _read_list(path: str | None) -> list[str]:
    if path is None:
        return []
    file = Path(str(path))
    if not file.is_file():
        raise FileNotFoundError(f"{file} is no list: pass a text file with one case a line.")
    return [line.strip() for line in file.read_text().splitlines() if line.strip()]


def prepare_dataset(cases: Sequence[Case], output: Path, recipe: Recipe) -> None:
    """Prepare all cases, verify what was written, write ``dataset.json`` and print a summary.

    A case that fails does not stop the others. ``dataset.json`` is written last, and only if all cases succeeded.

    Args:
        cases: the cases, in the order of ``dataset.json``.
        output: the folder to write.
        recipe: how the dataset was made.

    Raises:
        ValueError: if there is no case, a name occurs twice, ``output`` holds another dataset, or cases failed.
    """
    if not cases:
        raise ValueError("no case was found in the source: check the folder against the layout in --help.")
    repeated = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if repeated:
        raise ValueError(f"two cases have the same name: {repeated}")
    index = output / "dataset.json"
    _require_same_dataset(index, cases, recipe)
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    reports: dict[str, Report] = {}
    failures: list[str] = []
    finished = 0
    for case in tqdm(cases, desc=recipe.tag, unit="case"):
        try:
            try:
                reports[case.name] = inspect_case(output, case, recipe)
                finished += 1
            except Exception:  # whatever is wrong with what an earlier run left (or did not): write it anew
                write_case(output, case, recipe)
                reports[case.name] = inspect_case(output, case, recipe)
        except Exception as error:  # collected and raised below, so that one bad case does not cost the others
            failures.append(f"{case.name}: {error}")
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(cases)} cases failed, so {index.name} was not written. Mend or remove them and "
            "run again; finished cases are kept.\n" + "\n".join(failures)
        )
    _write_index(index, cases, recipe)
    print(_summary(cases, reports, finished, index))


def _require_same_dataset(index: Path, cases: Sequence[Case], recipe: Recipe) -> None:
    if not index.exists():
        return
    existing = json.loads(index.read_text())
    if (existing.get("name"), existing.get("description")) != (recipe.name, recipe.description):
        raise ValueError(f"{index} describes another dataset ({existing.get('name')!r}): choose another output folder.")
    files = {f"images/{case.name}.nii.gz" for case in cases}
    dropped = [item["image"] for section in SECTIONS for item in existing[section] if item["image"] not in files]
    if dropped:
        raise ValueError(
            f"{index} lists {len(dropped)} cases that this run does not have ({dropped[0]} is the first): choose "
            "another output folder, or delete that file if they are to be dropped."
        )


def _write_index(index: Path, cases: Sequence[Case], recipe: Recipe) -> None:
    items: dict[str, list[dict[str, str]]] = {section: [] for section in SECTIONS}
    for case in cases:
        item = {"image": f"images/{case.name}.nii.gz"}
        if case.labeled:
            item["label"] = f"labels/{case.name}.nii.gz"
        items[case.section].append(item)
    content = {
        "name": recipe.name,
        "description": recipe.description,
        "reference": recipe.reference,
        "tensorImageSize": "3D",
        "modality": {"0": recipe.modality},
        "labels": {str(value): name for value, name in recipe.labels.items()},
        "numTraining": len(items["training"]),
        **items,
    }
    with atomically(index) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")


def _summary(cases: Sequence[Case], reports: Mapping[str, Report], finished: int, index: Path) -> str:
    labeled = sum(case.labeled for case in cases)
    sections = Counter(case.section for case in cases)
    counts = ", ".join(f"{sections[section]} {section}" for section in SECTIONS)
    shapes = np.array([report.shape for report in reports.values()])
    smallest, largest = (" x ".join(map(str, shape)) for shape in (shapes.min(0), shapes.max(0)))
    spacings = sorted({" x ".join(map(str, report.spacing_mm)) for report in reports.values()})
    foreground = [100 * report.foreground for report in reports.values() if report.foreground is not None]
    mean, std = np.mean([(report.mean, report.std) for report in reports.values()], axis=0)
    lines = [
        f"cases       {labeled} labelled, {len(cases) - labeled} unlabelled: {counts}; {finished} skipped as finished",
        f"shape       {smallest} to {largest} voxels",
        f"spacing     {', '.join(spacings[:5])}{' ...' if len(spacings) > 5 else ''} mm",
        f"intensity   mean {mean:.3f}, standard deviation {std:.3f} (averages over the cases)",
        f"written     {index}",
    ]
    if foreground:
        lines.insert(3, f"foreground  {min(foreground):.2f} to {max(foreground):.2f} % of the voxels")
    return "\n".join(lines)
