"""From Python: train on lists of files, segment files and arrays; all by the bundle's configs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import Compose, LoadImaged, SaveImaged
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from simcvd_bundle.data.cases import CheckedDataset
from simcvd_bundle.data.reading import Grid, as_tensor
from simcvd_bundle.data.scans import find_images
from simcvd_bundle.data.transforms import FileValuesd
from simcvd_bundle.networks.vnet import split_output
from simcvd_bundle.utils.errors import root_cause
from simcvd_bundle.utils.memory import allocator_kept
from simcvd_bundle.utils.paths import BUNDLE_ROOT

File = str | Path
Image = File | Sequence[File]
"""A file, or one file a channel."""


@dataclass(frozen=True)
class Prediction:
    """What a network says about a volume; channels first, on the CPU, on the grid and with the affine of the volume.

    Attributes:
        mask: class indices ``(1, H, W, D)``, uint8, 0 is background.
        probability: of each foreground class ``(C, H, W, D)``, in [0, 1].
        sdm: signed distance map of each foreground class ``(C, H, W, D)``, in [-1, 1], negative inside.
        uncertainty: ``(1, H, W, D)`` in [0, 1], or ``None`` if no dropout samples were asked for.
    """

    mask: MetaTensor
    probability: MetaTensor
    sdm: MetaTensor
    uncertainty: MetaTensor | None


class Segmenter:
    """A trained network with the preprocessing and the inference of ``configs/inference.json``.

    Args:
        weights: file that a training wrote, ``model.pt``.
        overlays: config files to add to ``inference.json``, such as ``configs/data_la.json``.
        bundle_root: folder of the bundle; by default the one that the package was imported from.
        **settings: ids of ``configs/inference.json`` and their values. Those that only a training reads are passed
            over, here and in overlays, so that what was given to a training can be given as it is.

    Raises:
        FileNotFoundError: when the configs or the weights are not there.
        ValueError: when the weights do not fit the settings, or an id is unknown.
    """

    def __init__(
        self, weights: File, *, overlays: Sequence[File] = (), bundle_root: File | None = None, **settings: Any
    ) -> None:
        workflow = _inference(_bundle_root(bundle_root), weights, overlays, settings)
        get = workflow.parser.get_parsed_content
        with _as_guest():
            workflow.initialize()
            get("check")(config=workflow.parser.get())
            self._take(get)
            get("load")()

    def _take(self, get: Callable[[str], Any]) -> None:
        """Take the parts of ``inference.json``; the network gets its weights when ``load`` is called for."""
        self.network: nn.Module = get("network").eval()
        self.device, self.inferer = torch.device(get("device")), get("inferer")
        self.in_channels, self.num_classes = int(get("in_channels")), int(get("num_classes"))
        self.load: Compose = get("preprocessing")
        self.prepare = Compose([t for t in self.load.transforms if not isinstance(t, LoadImaged)])
        to_file = (FileValuesd, SaveImaged)  # masks of predictions hold the indices of the classes
        self.finish = Compose([t for t in get("postprocessing").transforms if not isinstance(t, to_file)])

    def predict(self, image: Image | np.ndarray | Tensor, dropout_samples: int = 0) -> Prediction:
        """Segment one volume.

        The uncertainty is that of Monte Carlo dropout: the entropy of the mean probabilities of ``dropout_samples``
        passes with the network's dropout switched on, divided by its maximum, log(C + 1). It is not calibrated. The
        random draws are torch's (``torch.manual_seed``); mask, probability and SDM come from a pass without dropout.

        Args:
            image: a file, a list of one file a channel, a folder with the files of one scan or one DICOM series, or an
                array ``(H, W, D)`` or ``(channels, H, W, D)`` of raw intensities: what the preprocessing does to a file
                it does to an array. Any real type and any view will do, and so will lists of numbers; the array stays
                as it is. A ``MetaTensor`` keeps its affine.
            dropout_samples: passes for the uncertainty; 10 or more, 0 for none.

        Raises:
            FileNotFoundError: when there is no scan.
            TypeError: for what is neither file nor array, and for an array of other than real numbers.
            ValueError: for more than one scan, an array of other than 3 or 4 axes, or a scan that cannot be used: with
                NaN, constant, of another number of channels, ... (`check_case`).
        """
        transform = self.load
        array = _array(image)
        if array is not None:
            data, transform = {"image": _as_loaded(array)}, self.prepare
        elif isinstance(image, str | Path):
            found = find_images(str(image), self.in_channels)
            if len(found) > 1:
                raise ValueError(f"{image} holds {len(found)} scans: give one of them.")
            data = found[0]
        else:
            data = {"image": _existing(cast(Image, image))}
        item = CheckedDataset([data], transform, self.in_channels, self.num_classes)[0]
        batch = list_data_collate([item])
        inputs = batch["image"].to(self.device)
        with torch.no_grad():
            pred = self.inferer(inputs, self.network)
            if dropout_samples:
                uncertainty = self._uncertainty(inputs, dropout_samples)
                pred = torch.cat([pred, uncertainty], 1)  # last of all, so that it shares what happens to the SDM
        result = self.finish(decollate_batch({**batch, "pred": pred})[0])
        mask, probability, sdm = (result[key].cpu() for key in ("pred", "probability", "sdm"))
        return Prediction(
            mask=mask.to(torch.uint8),
            probability=probability,
            sdm=sdm[:-1] if dropout_samples else sdm,
            uncertainty=sdm[-1:] if dropout_samples else None,
        )

    def _uncertainty(self, inputs: Tensor, samples: int) -> Tensor:
        dropouts = [module for module in self.network.modules() if isinstance(module, nn.Dropout3d)]
        try:
            for module in dropouts:
                module.train()
            total: Any = sum(self.inferer(inputs, self.network) for _ in range(samples))
        finally:
            self.network.eval()
        mean = split_output(total[0], self.num_classes)[0] / samples
        entropy: Tensor = torch.special.entr(mean).sum(0, keepdim=True) / math.log(len(mean))
        return entropy[None]


def train(
    labeled: Sequence[tuple[Image, File]],
    unlabeled: Sequence[Image] = (),
    validation: Sequence[tuple[Image, File]] = (),
    *,
    output_dir: File,
    overlays: Sequence[File] = (),
    bundle_root: File | None = None,
    **settings: Any,
) -> Segmenter:
    """Train as ``python -m monai.bundle run training --config_file configs/train.json`` does, on lists of files.

    What it writes is what the command writes, but all of it below ``output_dir``; a former run there is kept. Like the
    command it seeds the random generators of the process, which else stays as it is. That includes the allocator: call
    ``simcvd_bundle.utils.keep_freed_memory`` first where a training on CPU should be as fast as the command's.

    Args:
        labeled: pairs of image and label.
        unlabeled: images.
        validation: pairs of image and label.
        output_dir: folder of the run. It also gets the cached cases; trainings on the same cases can share them by
            ``cache_dir``.
        overlays: config files to add to ``train.json``.
        bundle_root: folder of the bundle; by default the one that the package was imported from.
        **settings: ids of ``configs/train.json`` and their values; ids with ``::`` by ``**{"outer::inner": value}``.

    Returns:
        The student, ready to predict. Later ``Segmenter(output_dir + "/model.pt", **settings)`` gives it back.

    Raises:
        FileNotFoundError: when the configs or a file are not there.
        TypeError: for what is no file and no list of one file a channel.
        ValueError: for an unknown id, unusable data or a ``#`` in a path; whatever a step of the training raises.
    """
    root, folder = _bundle_root(bundle_root), Path(output_dir).resolve()
    given: dict[str, Any] = {
        "ckpt_dir": str(folder), "cache_dir": str(folder / "cache"), **_with_colons(settings),
        "bundle_root": str(root), "output_dir": str(folder),
        "train::dataset::data": [*map(_item, labeled), *({"image": _in_config(image)} for image in unlabeled)],
        "validate::dataset::data": [*map(_item, validation)],
    }  # fmt: skip
    training = ConfigWorkflow(
        config_file=[str(root / "configs" / "train.json"), *map(_existing, overlays)],
        workflow_type="train",
        logging_file=False,
        **given,
    )
    inference = _inference(root, folder / "model.pt", overlays, settings)
    segmenter = Segmenter.__new__(Segmenter)
    with _as_guest():
        training.parser.get_parsed_content("check")(config=training.parser.get())
        inference.initialize()  # now, as what is wrong with it should not come up after a long training
        segmenter._take(inference.parser.get_parsed_content)
        for step in (training.initialize, training.run, training.finalize):
            step()
        inference.parser.get_parsed_content("load")()
    return segmenter


def _inference(root: Path, weights: File, overlays: Sequence[File], settings: Mapping[str, Any]) -> ConfigWorkflow:
    """``inference.json`` with those ids of overlays and settings that are not of a training alone."""
    training, inference = (
        json.loads((root / "configs" / name).read_text(encoding="utf-8")) for name in ("train.json", "inference.json")
    )
    of_training = (training.keys() - inference.keys()) | {"initialize", "run"}

    def chosen(content: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in _with_colons(content).items()
            if name.removeprefix("+").split("::")[0] not in of_training
        }

    with TemporaryDirectory() as folder:
        files = [root / "configs" / "inference.json"]
        for number, overlay in enumerate(overlays):
            content = chosen(ConfigParser.load_config_file(_existing(overlay)))
            files.append(Path(folder, f"{number}.json"))
            files[-1].write_text(json.dumps(content), encoding="utf-8")
        given = {
            **chosen(settings), "bundle_root": str(root), "weights": str(weights), "save_probability": True,
            "save_sdm": True,
        }  # fmt: skip
        return ConfigWorkflow(config_file=[*map(str, files)], workflow_type="infer", logging_file=False, **given)


def _with_colons(content: Mapping[str, Any]) -> dict[str, Any]:
    """Ids with ``::``, which MONAI lets be written ``#`` too."""
    return {name.replace("#", "::"): value for name, value in content.items()}


def _bundle_root(given: File | None) -> Path:
    root = Path(given or BUNDLE_ROOT).resolve()
    if not (root / "configs" / "train.json").is_file():
        raise FileNotFoundError(
            f"{root} is not the bundle's folder (no configs/train.json in it). An installed wheel holds the package "
            "only: unpack or clone the bundle and give its folder as bundle_root, or install it with `pip install -e`."
        )
    return root


def _item(pair: tuple[Image, File]) -> dict[str, Any]:
    image, label = pair
    return {"image": _in_config(image), "label": _in_config(label)}


def _in_config(file: Image) -> Any:
    path = _existing(file)
    if "#" in str(path):
        raise ValueError(
            f"{path} has a #, which MONAI's configs read as ::, so rename the file or folder, or link to it."
        )
    return path


def _existing(file: Any) -> Any:
    if isinstance(file, list | tuple) and file:
        return [_existing(channel) for channel in file]
    if not isinstance(file, str | Path):
        raise TypeError(f"Expected a file, or a list of one file a channel, got {type(file).__name__} {file!r:.60}.")
    if not Path(file).exists():
        raise FileNotFoundError(f"{file} does not exist.")
    return str(Path(file).resolve())


def _array(image: Any) -> np.ndarray | Tensor | None:
    """The image if it is an array or a list (of lists, of slices) of numbers; ``None`` if it is something else."""
    if isinstance(image, list | tuple) and image and isinstance(image[0], list | tuple | np.ndarray | Tensor | float):
        return np.asarray(image)
    return image if isinstance(image, np.ndarray | Tensor) else None


def _as_loaded(array: np.ndarray | Tensor) -> MetaTensor:
    """Copy of an array as ``LoadScand`` would have returned it: float32, channels first, whatever view was given."""
    if array.ndim not in (3, 4):
        raise ValueError(f"An array must be (H, W, D) or (channels, H, W, D), got the shape {tuple(array.shape)}.")
    if isinstance(array, np.ndarray):
        real = array.dtype.kind in "biuf"
    else:
        real = array.layout == torch.strided and not (array.is_complex() or array.is_quantized)
    if not real:
        raise TypeError(f"An array must hold one real number for each voxel and channel, got {array.dtype}.")
    meta = array.meta if isinstance(array, MetaTensor) else {}
    affine = np.asarray(meta.get("affine", np.eye(4)), dtype=float)
    height, width, depth = array.shape[-3:]
    Grid((height, width, depth), affine)
    plain = as_tensor(array) if isinstance(array, np.ndarray) else convert_to_tensor(array.detach(), track_meta=False)
    values = plain.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    name = {key: value for key, value in meta.items() if key == "filename_or_obj"}
    return MetaTensor(values if array.ndim == 4 else values[None], affine=torch.as_tensor(affine), meta=name)


@contextmanager
def _as_guest() -> Iterator[None]:
    """Leave the caller's process as it was, whatever the steps of a config do to it as they would to a command's.

    Errors are what happened, instead of MONAI's general ones around it.
    """
    hook, path, cudnn = sys.excepthook, [*sys.path], torch.backends.cudnn
    flags = (cudnn.deterministic, cudnn.benchmark)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        with allocator_kept():
            yield
    except Exception as error:
        cause = root_cause(error)
        if cause is error:
            raise
        raise cause from None
    finally:
        sys.excepthook, sys.path[:] = hook, path
        cudnn.deterministic, cudnn.benchmark = flags
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
