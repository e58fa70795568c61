"""The command ``python -m simcvd_bundle init``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fire.decorators import SetParseFns
from tqdm import tqdm

from simcvd_bundle.commands.arguments import parse_list
from simcvd_bundle.commands.init.doubts import doubts
from simcvd_bundle.commands.init.finding import Scan, find_scans
from simcvd_bundle.commands.init.inspecting import Intensities, read_intensities
from simcvd_bundle.commands.init.naming import choose_names, names_of_index
from simcvd_bundle.commands.init.planning import plan
from simcvd_bundle.commands.init.rules import choose_foreground_prob, choose_one_piece
from simcvd_bundle.commands.init.running import LOG, MASKS, PAGE, TRAIN, is_unfinished, train_and_segment
from simcvd_bundle.commands.init.sections import split, without_empty
from simcvd_bundle.commands.init.summary import describe, label_notes
from simcvd_bundle.commands.init.timing import fit_to_time, training_files, work_of
from simcvd_bundle.data.names import stem
from simcvd_bundle.data.reading import Grid, open_channels, open_label
from simcvd_bundle.utils.atomic import atomically

MAX_PATCH_VOXELS = 80**3
"""Half of the paper's patch of 112 x 112 x 80, for a laptop."""
ITERATIONS = 6000
"""The paper's, where no time was given."""


def init(
    folder: str,
    name: str = "mine",
    output_dir: str | None = None,
    images: str | None = None,
    labels: str | None = None,
    in_channels: int | None = None,
    class_names: Sequence[str] | None = None,
    subject: str | None = None,
    num_labeled: int | None = None,
    test: int = 0,
    validation: int | None = None,
    seed: int = 0,
    spacing: Sequence[float] | None = None,
    max_patch_voxels: int = MAX_PATCH_VOXELS,
    hours: float | None = None,
    train: bool = False,
    keep_empty_labels: bool = False,
    overwrite: bool = False,
) -> None:
    """Look at a folder of images and labels; write dataset.json and data_NAME.json, which train at once.

    Images are neither moved nor changed. What was found and assumed is printed; the rules are in docs/own_data.md.
    With train it goes on to masks of all unlabelled scans and a page, in a folder NAME_run_N of its own beside the
    overlay; the same command continues a run that was interrupted.

    Args:
        folder: images and labels: NIfTI, NRRD, MetaImage, folders of DICOM files.
        name: name of the overlay.
        output_dir: where the two files go; by default folder.
        images: pattern relative to folder that images match, such as "*/lgemri.nrrd".
        labels: the same for labels, if their names and folders do not tell.
        in_channels: channels of a scan; files that differ after the last _ only are its channels.
        class_names: names of the label values other than 0, in ascending order, as "[liver,tumour]"; by default those
            that the files (.seg.nrrd, an existing dataset.json) know.
        subject: regular expression that finds the subject in a file's path, to keep its scans on one side of a split.
        num_labeled: train with the labels of the first n labelled scans only.
        test: number of labelled subjects to hold out for the test.
        validation: number of labelled subjects to hold out for validation during training; by default one of at least
            five, and none of fewer or with num_labeled.
        seed: seed of the draw of these subjects.
        spacing: voxel size in mm to resample to instead of what the rules say, as "[1,1,3]"; coarser is faster.
        max_patch_voxels: voxels of a patch at most; memory of the training is proportional.
        hours: time for training and masks; a step is measured here, and iterations (and, if few fit, a smaller patch)
            chosen by it.
        train: train and segment now.
        keep_empty_labels: train with labels that are 0 everywhere instead of taking the scan as unlabelled.
        overwrite: replace files that an earlier run wrote.
    """
    root, target = Path(folder), Path(output_dir or folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder: give the folder of images and labels.")
    if hours is not None and not hours > 0:
        raise ValueError(f"--hours is {hours}, but must be a number above 0.")
    paths = target / "dataset.json", target / f"data_{name}.json"
    if train and not overwrite and all(map(Path.is_file, paths)) and is_unfinished(paths[1]):
        print(f"continued   the run that was interrupted (--overwrite True looks at {root} again and starts anew)")
        _train(paths[1], subject)
        return
    for path in paths:
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{path} exists: --overwrite True replaces it, --output_dir and --name choose another place."
            )
    scans, in_channels = find_scans(root, in_channels, images, labels)
    grids, intensities = _inspect(scans, in_channels)
    scans, empty = without_empty(scans, intensities, keep_empty_labels)
    labeled = [i for i, scan in enumerate(scans) if scan.label is not None]
    if not labeled:
        raise ValueError(
            f"{root} has {len(scans)} images, but no label: put labels into a folder labels/ under their images' "
            "names, end their names with _label, or say which files they are with --labels PATTERN."
        )
    values = sorted({value for i in labeled for value in intensities[i].values} - {0})
    if not values:
        raise ValueError(f"All {len(labeled)} labels of {root} are empty (0 everywhere): there is no class to learn.")
    names = {scan.label: part.names for scan, part in zip(scans, intensities, strict=True) if scan.label}
    if target.resolve() != root.resolve():  # else there is none, or it is replaced
        names[root / "dataset.json"] = names_of_index(root / "dataset.json")
    classes, said = choose_names(values, names, class_names)
    sections, notes = split(root, scans, intensities, subject, num_labeled, test, validation, seed)
    seen = {root / item["label"] for item in sections["training"][:num_labeled] if "label" in item}
    trained = [part for scan, part in zip(scans, intensities, strict=True) if scan.label in seen]
    foreground = np.concatenate([part.foreground for part in trained])
    geometry = grids, [part.sample for part in intensities], foreground, in_channels
    foreground_prob, why_foreground = choose_foreground_prob([part.values for part in trained])
    one_piece_classes, why_pieces = choose_one_piece([part.pieces for part in trained], values)
    found = {"foreground": why_foreground, "pieces": why_pieces}
    items, work = work_of(sections, root, num_labeled)
    head = {
        "dataset_dir": str(root.resolve()),
        **({} if target.resolve() == root.resolve() else {"datalist": str(paths[0].resolve())}),
        **({} if num_labeled is None else {"num_labeled": num_labeled}),
        "class_names": {str(index): title for index, title in enumerate(classes, 1)},
        **({} if values == list(range(1, len(values) + 1)) else
           {"label_values": {str(value): index for index, value in enumerate(values, 1)}}),
        **({} if in_channels == 1 else {"in_channels": in_channels}),
    }  # fmt: skip

    def planned(max_voxels: int) -> tuple[dict[str, Any], dict[str, str]]:
        chosen, reasons = plan(*geometry, max_voxels, spacing)
        chosen |= {"foreground_prob": foreground_prob} if foreground_prob else {}
        chosen |= {"one_piece_classes": one_piece_classes} if one_piece_classes else {}
        return {**head, **chosen, "iterations": ITERATIONS}, reasons | found

    if hours is None:
        overlay, reasons = planned(max_patch_voxels)
    else:
        overlay, reasons = fit_to_time(hours, planned, max_patch_voxels, items, work)
    content = {
        "name": name,
        "description": f"found by simcvd_bundle init in {root.resolve().name}",
        "labels": {"0": "background", **{str(v): title for v, title in zip(values, classes, strict=True)}},
        "numTraining": len(sections["training"]),
        **sections,
    }
    for path, part in zip(paths, (content, overlay), strict=True):
        with atomically(path) as unfinished:
            unfinished.write_text(_json(part) + "\n", encoding="utf-8")
    notes = [*label_notes(intensities, labeled, values, classes), *said, *empty, *notes]
    notes += doubts(scans, grids, intensities)
    print(describe(grids, intensities, reasons, notes, paths, in_channels, training_files(items)))
    if train:
        _train(paths[1], subject)


def _train(overlay: Path, subject: str | None) -> None:
    folder = train_and_segment(overlay, subject)
    print(f"masks       {folder / MASKS}\npage        {folder / PAGE}\nnetwork     {folder / TRAIN / 'model.pt'}")
    print(f"log         {folder / LOG}")


def _inspect(scans: Sequence[Scan], in_channels: int) -> tuple[list[Grid], list[Intensities]]:
    """Grid and intensities of every scan; all that is wrong is collected into one error."""
    grids: list[Grid] = []
    intensities: list[Intensities] = []
    wrong: list[str] = []
    for number, scan in enumerate(tqdm(scans, "looking at scans", unit="scan", leave=False)):
        try:
            parts = open_channels(scan.image)
            found = sum(part.channels for part in parts)
            if found != in_channels:
                raise ValueError(_channels_message(scan, found, in_channels))
            label = open_label(scan.label, parts[0].grid) if scan.label else None
            intensities.append(read_intensities(parts[0], label, number))
            grids.append(parts[0].grid)
        except Exception as error:  # whatever a damaged file raises; each names its file
            text = str(error).strip()
            wrong.append(text if str(scan.image[0]) in text or str(scan.label) in text else f"{scan.image[0]}: {text}")
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(scans)} scans cannot be used; mend them or move them away. Nothing was written.\n"
            + "\n".join(wrong)
        )
    return grids, intensities


def _channels_message(scan: Scan, found: int, in_channels: int) -> str:
    path = scan.image[0]
    if len(scan.image) == 1 and found > 1:
        names = f"{stem(path)}_{{i:02d}}.nii.gz"
        code = f"[nib.save(v, f'{names}') for i, v in enumerate(nib.four_to_three(nib.load('{path}')))]"
        return (
            f"{path} holds {found} volumes. If they are channels: --in_channels {found}. If it is a time series, each "
            f'volume is a scan of its own: split it (python -c "import nibabel as nib; {code}") and move it away, or '
            "choose files with --images PATTERN."
        )
    return f"{path} has {found} of {in_channels} channels: complete its files, or set --in_channels."


def _json(content: Any) -> str:
    """Indented JSON with short lists in one line."""
    text = json.dumps(content, indent=4, ensure_ascii=False)
    return re.sub(r"\[\s+([^\[\]{}]{,60}?)\s+\]", lambda list_: "[" + re.sub(r",\s+", ", ", list_[1]) + "]", text)


SetParseFns(
    folder=str, name=str, output_dir=str, images=str, labels=str, class_names=parse_list, subject=str,
)(init)  # fmt: skip
