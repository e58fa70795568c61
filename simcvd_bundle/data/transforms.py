"""Labels: class indices of file values and back, and the signed distance map (SDM) of each class."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import edt
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapLabelValue, MapTransform, Transform
from monai.utils import convert_to_tensor
from torch import Tensor

from simcvd_bundle.data.class_names import compare_names
from simcvd_bundle.data.reading.labels import label_dtype, shown


class ClassIndices(Transform):
    """A label as 8-bit class indices; what is none is an error.

    Args:
        num_classes: number of foreground classes ``C``, at most 255.
        values: class of each value that labels hold, 0 for background, such as ``{"500": 1, "600": 2}`` (JSON knows
            only texts as keys); empty when the values are the classes. 0 is background unless it is given.

    Raises:
        ValueError: when ``num_classes`` or a class of ``values`` is out of its range.
    """

    def __init__(self, num_classes: int = 1, values: Mapping[str, int] | None = None) -> None:
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes must lie in 1 .. 255, got {num_classes}.")
        self.num_classes = num_classes
        try:
            self.values = {0: 0} | {int(value): index for value, index in values.items()} if values else {}
            label_dtype(self.values)
        except ValueError as error:
            raise ValueError(f"label_values must map integers of 64 bits, got {values}: {error}") from None
        if not set(self.values.values()) <= set(range(num_classes + 1)):
            raise ValueError(f"label_values must map to classes 0 to {num_classes} of class_names, got {values}.")

    def __call__(self, label: NdarrayOrTensor) -> Tensor:
        """Convert a label.

        Args:
            label: values 0 to ``C`` or those of ``values``, any shape and dtype.

        Returns:
            The same as uint8; a ``MetaTensor`` if the label is one.

        Raises:
            ValueError: when the label holds another value.
        """
        tensor = convert_to_tensor(label, track_meta=isinstance(label, MetaTensor))
        if self.values:
            indices: Tensor = torch.zeros_like(tensor, dtype=torch.uint8)
            known = torch.zeros_like(tensor, dtype=torch.bool)
            for value, index in self.values.items():
                if int(torch.tensor(value).to(tensor.dtype)) != value:  # no voxel of this type can hold it,
                    continue  # and torch would compare with what is left of it
                here = tensor == value
                indices[here] = index
                known |= here
            allowed = bool(known.all())
        else:
            indices = tensor.to(torch.uint8)
            allowed = bool(indices.max() <= self.num_classes) and torch.equal(indices.to(tensor.dtype), tensor)
        if not allowed:
            found = torch.unique(convert_to_tensor(tensor, track_meta=False)).numpy()
            text = ", ".join(map(shown, found[:10])) + (", ..." if len(found) > 10 else "")
            name = label.meta.get("filename_or_obj") if isinstance(label, MetaTensor) else None
            file = f" {name}" if name else ""
            raise ValueError(
                f"The label{file} holds the values {text}, but "
                + (f"label_values names {sorted(self.values)} only. " if self.values else
                   f"class_names names {self.num_classes} classes: expected 0 (background) to {self.num_classes}. ")
                + 'Name all classes, or map the values to classes with label_values, such as {"4": 1}; a mask has '
                "integers only, so threshold probabilities first."
            )  # fmt: skip
        return indices


class ClassIndicesd(MapTransform):
    """Dictionary form of ``ClassIndices``; it also compares the names that a label's file knows, see `compare_names`.

    Args:
        keys: keys of labels.
        num_classes: number of foreground classes.
        values: class of each value, see ``ClassIndices``.
        class_names: name of each class, from ``"1"`` on; without them nothing is compared.
        allow_missing_keys: leave an item without label as it is.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        num_classes: int = 1,
        values: Mapping[str, int] | None = None,
        class_names: Mapping[str, str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.indices = ClassIndices(num_classes, values)
        self.values, self.class_names = values, class_names or {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the labels converted."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.indices(data[key])
            meta = result[key].meta if isinstance(result[key], MetaTensor) else {}
            file = f"The label {meta.get('filename_or_obj')}"
            compare_names(meta.pop("value_names", {}), self.class_names, self.values, file)
        return result


class FileValuesd(MapTransform):
    """The reverse of ``ClassIndicesd``: class indices as the values of the label files, of `label_dtype`.

    Args:
        keys: keys of masks of class indices.
        values: class of each value, see ``ClassIndices``; a class of several values is written as the first of them.
    """

    def __init__(self, keys: KeysCollection, values: Mapping[str, int]) -> None:
        super().__init__(keys)
        first = {index: int(value) for value, index in reversed(list(values.items())) if index != 0}
        self.map = MapLabelValue(list(first), list(first.values()), dtype=np.dtype(label_dtype(map(int, values))))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the masks converted."""
        return {**data, **{key: self.map(data[key]) for key in self.key_iterator(dict(data))}}


class SignedDistanceMap(Transform):
    """Signed distance map of a label, one channel per foreground class, as SASSNet and DTC define it.

    Outside the class the Euclidean distance to it, inside the negative distance to the background, in voxels, each side
    divided by its own maximum, and 0 on the inner boundary (foreground voxels with a background face neighbour). A
    class that is absent gives +1 everywhere, one that fills the array -1.

    Source: the target Y^sdm of eq. (1) of You et al., IEEE TMI 2022; Li et al., MICCAI 2020; Luo et al., AAAI 2021.

    Args:
        num_classes: number of foreground classes ``C``; class c is where the label equals c.
    """

    def __init__(self, num_classes: int = 1) -> None:
        self.num_classes = num_classes

    def __call__(self, label: NdarrayOrTensor) -> Tensor:
        """Map a label.

        Args:
            label: ``(1, H, W, D)`` or ``(1, H, W)``, class indices 0 to ``C``, any dtype.

        Returns:
            ``(C, *spatial)``, float32 in [-1, 1], negative inside; a ``MetaTensor`` if the label is one.

        Raises:
            ValueError: when the label has more than one channel or holds other values than 0 to ``C``.
        """
        plain = convert_to_tensor(label, track_meta=False)
        if plain.dim() not in (3, 4) or plain.shape[0] != 1:
            raise ValueError(f"SignedDistanceMap expects a label of shape (1, H, W[, D]), got {list(plain.shape)}.")
        indices = ClassIndices(self.num_classes)(plain)
        sdm = torch.cat([self._binary(indices == c) for c in range(1, self.num_classes + 1)])
        return MetaTensor(sdm, meta=label.meta) if isinstance(label, MetaTensor) else sdm

    @staticmethod
    def _binary(inside: Tensor) -> Tensor:
        if not inside.any():
            return torch.ones(inside.shape)
        if inside.all():
            return -torch.ones(inside.shape)
        # one pass for both sides, several times as fast as MONAI's distance_transform_edt on each
        distance = torch.as_tensor(edt.edt(inside[0].numpy() + np.uint8(1), black_border=False))[None]
        signed = torch.where(inside, -distance, distance)
        sdm = signed / torch.where(inside, -signed.min(), signed.max())
        # distance 1 = a face neighbour is background: the inner boundary
        return sdm.masked_fill_(signed == -1, 0.0)


class SignedDistanceMapd(MapTransform):
    """Dictionary form of ``SignedDistanceMap``: writes the map of ``keys`` beside them.

    Args:
        keys: keys of labels ``(1, *spatial)``.
        sdm_key: key of the result.
        num_classes: number of foreground classes.
        allow_missing_keys: leave an item without label as it is.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        sdm_key: str = "sdm",
        num_classes: int = 1,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.sdm_key = sdm_key
        self.sdm = SignedDistanceMap(num_classes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the map added under ``sdm_key``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[self.sdm_key] = self.sdm(result[key])
        return result
