"""Labels: exact integers, one channel, on the grid of their image."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor

from simcvd_bundle.data.reading.grid import Grid
from simcvd_bundle.data.reading.loading import File, LoadScand, open_channels, placed
from simcvd_bundle.data.reading.volume import Volume

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Distance from an integer up to which a label's value counts as that integer: scaled files round."""
LIMITS = np.iinfo(np.int64)
"""Values that can be kept."""


def label_dtype(values: Iterable[int] = ()) -> str:
    """The smallest type of uint8, int16, int32 and int64 that holds values and 0.

    Raises:
        ValueError: when none does.
    """
    held = [0, *map(int, values)]
    for name in ("uint8", "int16", "int32", "int64"):
        if np.iinfo(name).min <= min(held) and max(held) <= np.iinfo(name).max:
            return name
    raise ValueError(f"label values must lie in {LIMITS.min} to {LIMITS.max}, got {min(held)} to {max(held)}.")


def as_integers(array: np.ndarray, path: File) -> np.ndarray:
    """The values of a label, integers of any type or floats within 0.001 of integers, as integers.

    Args:
        array: any shape.
        path: the label's file, for the message.

    Raises:
        ValueError: when a value is no integer, or one beyond 64 bits.
    """
    if array.dtype.kind in "bi" or not array.size:
        return array
    if array.dtype.kind == "f":
        rounded = np.round(array)
        with np.errstate(invalid="ignore"):  # infinity less infinity is no integer either
            odd = ~(np.abs(array - rounded) <= TOLERANCE)
        if odd.any():
            raise ValueError(
                f"The label {path} holds {shown(array[odd][0])}, which is no integer: a mask is expected. Threshold "
                "probabilities; if the file is no label, name it as none (init: --labels PATTERN)."
            )
        exact = 2 ** (np.finfo(array.dtype).nmant + 1)
        if np.abs(rounded).max() > exact:
            logger.warning(
                "The label %s holds values above %d as %s, which merges neighbours there: if others than %s were "
                "meant, store integers.", path, exact, array.dtype, shown(np.abs(rounded).max()),
            )  # fmt: skip
        array = rounded
    low, high = int(array.min()), int(array.max())
    if low < LIMITS.min or high > LIMITS.max:
        raise ValueError(
            f"The label {path} holds {low if low < LIMITS.min else high}, which 64 bits cannot keep: store values "
            f"from {LIMITS.min} to {LIMITS.max}."
        )
    return array if array.dtype.kind == "u" else array.astype(label_dtype((low, high)))


def shown(value: Any) -> str:
    """A value of an array with all its digits and no more."""
    return str(int(value)) if float(value).is_integer() else np.format_float_positional(value, trim="-")


def open_label(file: Any, grid: Grid) -> Volume:
    """Read the header of a label.

    Args:
        file: its file; a list of one is a file too.
        grid: that of its image.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it cannot be read, has several channels or lies on another grid than its image.
    """
    try:
        volumes = open_channels(file)
    except ValueError as error:  # begins with the file
        raise ValueError(f"The label {error}") from error
    label, channels = volumes[0], sum(volume.channels for volume in volumes)
    if channels != 1:
        raise ValueError(
            f"The label {', '.join(str(volume.path) for volume in volumes)} has {channels} channels: one with a value "
            "for each class is expected. Merge them; of overlapping segments (layers in 3D Slicer) export a label map."
        )
    difference = grid.difference(label.grid)
    if difference:
        raise ValueError(
            f"The label {label.path} does not lie on the grid of its image: {difference} (image against label). Mend "
            "the wrong header, resample the label to the image, or remove the case."
        )
    return label


def read_label(file: Any, grid: Grid) -> MetaTensor:
    """Read a label.

    Args:
        file: its file.
        grid: that of its image.

    Returns:
        Integers ``(1, H, W, D)`` on exactly ``grid``, as headers that agree up to rounding must not become two grids;
        ``meta`` holds ``filename_or_obj`` and, where the file knows any, ``value_names``: the names of its values.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: as `open_label` and `as_integers`.
    """
    label = open_label(file, grid)
    values = as_integers(label.voxels()[..., 0], label.path)
    names = {value: name for value, name in label.value_names.items() if (values == value).any()}
    result = placed(values[None], grid, label.path)
    if names:
        result.meta["value_names"] = names
    return result


class LoadLabeld(LoadScand):
    """Labels by our readers, see `read_label`.

    Args:
        keys: keys of labels.
        image_key: key of the image, loaded before and perhaps resampled since.
        allow_missing_keys: leave an item without label as it is.
    """

    def __init__(
        self, keys: KeysCollection = "label", image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def read(self, data: Mapping[Hashable, Any], key: Hashable) -> MetaTensor:
        """The label of one key, on the grid of the file of its image."""
        meta = data[self.image_key].meta
        height, width, depth = (int(size) for size in meta["spatial_shape"])
        return read_label(data[key], Grid((height, width, depth), np.asarray(meta["original_affine"], dtype=float)))
