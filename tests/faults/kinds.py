"""Kinds of bad input: how each is made from a good data set, and the words that its error must hold."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

IMAGE, LABEL, VALIDATION = (
    f"{name}.nii.gz" for name in ("images/training_00", "labels/training_00", "labels/validation_00")
)


class Kind(NamedTuple):
    """One kind of bad input.

    Attributes:
        name: what is wrong.
        words: words that the error must hold, separated by blanks.
        change: changes the copy of the data set.
        settings: ids of the command line.
        files: configs.
    """

    name: str
    words: str
    change: Callable[[Path], Any] = lambda folder: None
    settings: dict[str, Any] = {}  # noqa: RUF012 a NamedTuple, never changed
    files: list[str] = ["train.json"]  # noqa: RUF012


def array(edit: Callable[[np.ndarray], Any], file: str = IMAGE) -> Callable[[Path], None]:
    """Change the voxels of a file; ``edit`` returns the new array or changes the one it gets."""

    def change(folder: Path) -> None:
        image = nib.load(folder / file)
        values = np.array(image.dataobj)
        result = edit(values)
        nib.save(nib.Nifti1Image(values if result is None else result, image.affine), folder / file)

    return change


def affine(edit: Callable[[np.ndarray], Any], file: str = IMAGE) -> Callable[[Path], None]:
    """Change the affine of a file, of its sform as of its qform."""

    def change(folder: Path) -> None:
        image = nib.load(folder / file)
        matrix = image.affine.copy()
        edit(matrix)
        new = nib.Nifti1Image(np.array(image.dataobj), None)
        new.header.set_sform(matrix, code=1)
        new.header.set_qform(None, code=0)
        new.header["pixdim"][1:4] = np.linalg.norm(matrix[:3, :3], axis=0)  # else MONAI mends one by the other
        nib.save(new, folder / file)

    return change


def content(edit: Callable[[bytes], bytes], file: str = IMAGE) -> Callable[[Path], Any]:
    """Change the bytes of a file."""
    return lambda folder: (folder / file).write_bytes(edit((folder / file).read_bytes()))


def unzipped(edit: Callable[[bytearray], Any], file: str = IMAGE) -> Callable[[Path], Any]:
    """Change the bytes of a NIfTI file before its compression: magic at 344, dim at 40, datatype at 70."""

    def change(folder: Path) -> None:
        values = bytearray(gzip.decompress((folder / file).read_bytes()))
        edit(values)
        (folder / file).write_bytes(gzip.compress(bytes(values)))

    return change


def datalist(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Change the datalist; ``edit`` returns the new content or changes the one it gets."""

    def change(folder: Path) -> None:
        values = json.loads((folder / "dataset.json").read_text())
        result = edit(values)
        (folder / "dataset.json").write_text(json.dumps(values if result is None else result))

    return change


def text(edit: Callable[[str], str]) -> Callable[[Path], Any]:
    """Change the text of the datalist."""
    return lambda folder: (folder / "dataset.json").write_text(edit((folder / "dataset.json").read_text()))


def put(index: Any, value: Any) -> Callable[[np.ndarray], None]:
    """Set voxels or entries."""
    return lambda values: values.__setitem__(index, value)


def entry(**values: Any) -> Callable[[Path], Any]:
    """Change the first training case of the datalist."""
    return datalist(lambda content: content["training"][0].update(values))


def rename(file: str, name: str) -> Callable[[Path], Any]:
    """Rename a file, in the datalist too."""

    def change(folder: Path) -> None:
        (folder / file).rename(folder / name)
        text(lambda old: old.replace(file, name))(folder)

    return change


def move_outside(folder: Path) -> None:
    """The absolute path of a file outside the data set."""
    outside = folder.parent / "outside.nii.gz"
    shutil.copy(folder / IMAGE, outside)
    entry(image=str(outside))(folder)


def escape(folder: Path) -> None:
    """A relative path out of the data set."""
    shutil.copy(folder / IMAGE, folder.parent / "outside.nii.gz")
    entry(image="../outside.nii.gz")(folder)


def value(name: str, bad: Any, words: str = "must be") -> Kind:
    """A config id with a value that it cannot take."""
    return Kind(f"{name} = {bad}", f"{name} {words}", settings={name: bad})


BAD = f"{IMAGE} cannot be used"
CASE = f"{BAD} remove"
FILES = [
    Kind("truncated gzip", BAD, content(lambda old: old[: len(old) // 2])),
    Kind("empty file", BAD, content(lambda old: b"")),
    Kind("text instead of an image", BAD, content(lambda old: b"hello")),
    Kind("an error page of a download", BAD, content(lambda old: b"<html>404</html>")),
    Kind("pointer of git-lfs", BAD, content(lambda old: b"version https://git-lfs.github.com/spec/v1")),
    Kind("damaged bytes in the gzip", BAD, content(lambda old: old[:3000] + bytes(200) + old[3200:])),
    Kind("wrong magic", BAD, unzipped(put(slice(344, 348), b"XXXX"))),
    Kind("header only", BAD, content(lambda old: gzip.compress(gzip.decompress(old)[:352]))),
    Kind("half of the voxels", BAD, content(lambda old: gzip.compress(gzip.decompress(old)[:40000]))),
    Kind("unknown datatype", BAD, unzipped(put(slice(70, 72), b"\x33\x33"))),
    Kind("zero-size axis", BAD, unzipped(put(slice(44, 46), b"\0\0"))),
    Kind("negative axis", BAD, unzipped(put(slice(44, 46), b"\xf0\xff"))),
    Kind("NaN voxel", f"{CASE} NaN", array(put((3, 4, 5), np.nan))),
    Kind("infinite voxel", f"{CASE} infinite", array(put((3, 4, 5), np.inf))),
    Kind("all voxels NaN", f"{CASE} NaN", array(put(..., np.nan))),
    Kind("constant image", f"{CASE} constant", array(put(..., 7))),
    Kind("image of zeros", f"{CASE} constant", array(put(..., 0))),
    Kind("time series", f"{CASE} channels in_channels", array(lambda old: np.stack([old] * 3, -1))),
    Kind("2D image", BAD, array(lambda old: old[:, :, 0])),
    Kind("singular affine", f"{BAD} sform qform contradicts copy", affine(put((slice(0, 3), 0), 0))),
    Kind("NaN in the affine", BAD, affine(put((0, 0), np.nan))),
    Kind("label of another shape", f"{CASE} {LABEL} shape", array(lambda old: old[:-1], LABEL)),
    Kind("label of another position", f"{CASE} {LABEL} affine Mend", affine(put((0, 3), 9), LABEL)),
    Kind("label of another spacing", f"{CASE} {LABEL} affine Mend", affine(put((2, 2), 2), LABEL)),
    Kind("label of another orientation", f"{CASE} {LABEL} affine Mend", affine(put((0, 0), -1), LABEL)),
    Kind("label with an unknown value", f"{IMAGE} 0, 1, 5 class_names", array(put((0, 0, 0), 5), LABEL)),
    Kind("label with a negative value", f"{IMAGE} -1 class_names", array(lambda old: old.astype(np.int16) * -1, LABEL)),
    Kind("label with fractions", f"{IMAGE} {LABEL} 0.5 integer", array(lambda old: old * np.float32(0.5), LABEL)),
    Kind("label 255 for foreground", f"{IMAGE} 255 class_names", array(lambda old: old * np.uint8(255), LABEL)),
    Kind("label with NaN", f"{IMAGE} {LABEL} nan integer", array(lambda old: np.where(old > 0, np.nan, old), LABEL)),
    Kind("colour image as label", f"{IMAGE} {LABEL} colours",
         array(lambda old: np.stack([old] * 3, -1).view([(colour, "u1") for colour in "RGB"])[..., 0], LABEL)),
    Kind("names of classes exchanged", "dataset.json 'tumour' 'liver' class_names mend",
         datalist(lambda old: old.update(labels={"1": "tumour", "2": "liver"})),
         settings={"class_names": '{"1": "liver", "2": "tumour"}'}),
    Kind("one-hot label", f"{IMAGE} {LABEL} channels", array(lambda old: np.stack([old] * 2, -1), LABEL)),
    Kind("truncated label", f"{BAD} {LABEL}", content(lambda old: old[: len(old) // 2], LABEL)),
    Kind("validation label of another shape", "images/validation_00.nii.gz shape",
         array(lambda old: old[:-1], VALIDATION)),
    Kind("validation label truncated", "images/validation_00.nii.gz cannot be used",
         content(lambda old: old[:99], VALIDATION)),
    Kind("missing image", f"{IMAGE} does not exist", lambda folder: (folder / IMAGE).unlink()),
    Kind("missing label", f"{LABEL} does not exist", lambda folder: (folder / LABEL).unlink()),
    Kind("dangling link", f"{IMAGE} does not exist",
         lambda folder: [(folder / IMAGE).unlink(), os.symlink("/no", folder / IMAGE)]),
    Kind("truncated, spaces and non-ASCII letters", "images/ein Bild äöü 心.nii.gz cannot be used",
         lambda folder: [content(lambda old: old[:99])(folder),
                         rename(IMAGE, "images/ein Bild äöü 心.nii.gz")(folder)]),
    Kind("numpy file", "images/a.npy no image .nii.gz", rename(IMAGE, "images/a.npy")),
    Kind("PNG file", "images/a.png no image .nii.gz", rename(IMAGE, "images/a.png")),
    Kind("folder without DICOM files", "images/empty cannot be used",
         lambda folder: [(folder / "images/empty").mkdir(), entry(image="images/empty")(folder)]),
]  # fmt: skip
LISTS = [
    Kind("no datalist", "No datalist dataset.json dataset_dir", lambda folder: (folder / "dataset.json").unlink()),
    Kind("JSON cut off", "dataset.json not valid JSON", text(lambda old: old[:99])),
    Kind("JSON with a trailing comma", "dataset.json not valid JSON", text(lambda old: old.rstrip()[:-1] + ",}")),
    Kind("JSON with duplicate keys", "dataset.json 'training' twice",
         text(lambda old: old.replace('"validation"', '"training"'))),
    Kind("no UTF-8", "dataset.json not valid JSON",
         lambda folder: (folder / "dataset.json").write_bytes(b'{"a": "\xff"}')),
    Kind("JSON of extreme depth", "dataset.json not valid JSON", text(lambda old: "[" * 100000)),
    Kind("a list instead of sections", "dataset.json sections", datalist(lambda old: old["training"])),
    Kind("no training section", "dataset.json 'training' sections", datalist(lambda old: old.pop("training") and None)),
    Kind("empty training section", "dataset.json 'training'", datalist(lambda old: old.update(training=[]))),
    Kind("a section that is no list", "dataset.json 'training' list",
         datalist(lambda old: old.update(training={"a": 1}))),
    Kind("case without image", "dataset.json entry 0 image",
         datalist(lambda old: old["training"][0].pop("image") and None)),
    Kind("case that is a number", "dataset.json entry 0 image",
         datalist(lambda old: old["training"].__setitem__(0, 7))),
    Kind("image that is a number", "dataset.json image entry 0", entry(image=7)),
    Kind("empty name", "dataset.json image entry 0", entry(image="")),
    Kind("label that is a number", "dataset.json label entry 0", entry(label=1)),
    Kind("duplicate case", f"dataset.json {IMAGE} twice remove",
         datalist(lambda old: old["training"].append(old["training"][0]))),
    Kind("duplicate case under two spellings", f"dataset.json {IMAGE} twice",
         datalist(lambda old: old["training"].append({**old["training"][0], "image": f"./{IMAGE}"}))),
    Kind("same case labelled and unlabelled", f"dataset.json {IMAGE} without label remove",
         datalist(lambda old: old["training"].append({"image": IMAGE}))),
    Kind("image as its own label", f"dataset.json {IMAGE} label", entry(label=IMAGE)),
    Kind("absolute path outside the dataset", "outside.nii.gz outside dataset_dir", move_outside),
    Kind("relative path out of the dataset", "outside.nii.gz outside dataset_dir", escape),
    Kind("no labelled case", "'training' dataset.json has a label add",
         datalist(lambda old: [item.pop("label", None) for item in old["training"]] and None)),
    Kind("validation case without label", "dataset.json 'validation' label",
         datalist(lambda old: old["validation"][0].pop("label") and None)),
    Kind("dataset_dir that does not exist", "/no/such/folder dataset_dir", settings={"dataset_dir": "/no/such/folder"}),
]  # fmt: skip
VALUES = [
    value("num_labeled", 0), value("num_labeled", 99, "dataset.json 4 labelled"), value("num_labeled", "two"),
    value("num_labeled", 1.5), value("patch_size", [16, 16]), value("patch_size", [16, 16, 0]), value("patch_size", 16),
    value("sdm_weight", -1), value("contrastive_weight", -0.5),
    value("consistency_weight", "high"), value("iterations", 0), value("iterations", -5), value("epoch_length", 0),
    value("labeled_batch_size", 0), value("unlabeled_batch_size", -1), value("learning_rate", 0),
    value("ema_decay", 1.0), value("temperature", 0), value("flip_prob", 1.5),
    Kind("noise below 0", "GaussianNoise std", settings={"train::views::0::std": -1}),
    Kind("a scale below 0", "train::inferer sdm_scale", settings={"train::inferer::sdm_scale": -1}),
    Kind("no slices", "train::inferer num_slices", settings={"train::inferer::num_slices": 0}),
    Kind("a ramp-up below 0", "rampup_length must", settings={"rampup_length": -1}),
    value("head_dropout", 2), value("in_channels", 0), value("in_channels", 2, "channels set"),
    value("class_names", "{}"), value("class_names", '{"2": "a"}'), value("class_names", '{"1": "a", "2": "a"}'),
    value("precision", "float8", "must be one of"), value("inference_mode", "slow", "must be"),
    value("log_interval", 0),
    value("num_workers", -1), value("max_grad_norm", 0), value("resume", "yes", "True or False"),
    value("boundary_map", "edges", "must be"), value("head_pool_size", 0), value("seed", -1),
    value("output_dir", "", "name of a folder"),
    Kind("window_stride beyond the patch", "window_stride patch_size",
         settings={"window_stride": [99, 8, 8], "inference_mode": "window"}),
    Kind("misspelled id", "'iteration' 'iterations'", settings={"iteration": 4}),
    Kind("misspelled member", "train::dataloder train::dataloader", settings={"train::dataloder": 4}),
    Kind("id of another workflow", "'eval_section'", settings={"eval_section": "test"}),
    Kind("another bundle's root", "bundle_root", settings={"bundle_root": "/"}),
    Kind("weights that do not exist", "No weights /no/model.pt weights", settings={"weights": "/no/model.pt"},
         files=["train.json", "evaluate.json"]),
    Kind("unknown section", "dataset.json 'fold_9' section", settings={"eval_section": "fold_9", "weights": "GOOD"},
         files=["train.json", "evaluate.json"]),
    Kind("folder without scans", "holds no scan", lambda folder: (folder / "none").mkdir(),
         {"dataset_dir": "DATA/none", "weights": "GOOD"}, ["inference.json"]),
    Kind("folder of scans that does not exist", "dataset_dir /no/scans",
         settings={"dataset_dir": "/no/scans", "weights": "GOOD"},
         files=["inference.json"]),
    Kind("two scans of one name", "a.nii a.nii.gz rename",
         lambda folder: [(folder / "twins").mkdir(), (folder / "twins/a.nii").touch(),
                         (folder / "twins/a.nii.gz").touch()],
         {"dataset_dir": "DATA/twins", "weights": "GOOD"}, ["inference.json"]),
    Kind("weights of another network", "GOOD network_def class_names",
         settings={"weights": "GOOD", "network_def::base_channels": 4},
         files=["inference.json"]),
]  # fmt: skip
KINDS = FILES + LISTS + VALUES
