"""The signed distance map (SDM) of a label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.transforms.utils import distance_transform_edt
from monai.utils import convert_to_tensor
from torch import Tensor


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
        tensor = convert_to_tensor(label, track_meta=isinstance(label, MetaTensor))
        plain = convert_to_tensor(label, track_meta=False)
        if plain.dim() not in (3, 4) or plain.shape[0] != 1:
            raise ValueError(f"SignedDistanceMap expects a label of shape (1, H, W[, D]), got {list(plain.shape)}.")
        classes = [plain == c for c in range(1, self.num_classes + 1)]
        if int(sum(c.sum() for c in classes)) != int((plain != 0).sum()):
            raise ValueError(
                f"SignedDistanceMap expects class indices 0 to {self.num_classes}, the label holds "
                f"{[round(v, 3) for v in torch.unique(plain.float()).tolist()][:10]}."
            )
        sdm = torch.cat([self._binary(c) for c in classes])
        return MetaTensor(sdm, meta=tensor.meta) if isinstance(tensor, MetaTensor) else sdm

    @staticmethod
    def _binary(inside: Tensor) -> Tensor:
        if not inside.any():
            return torch.ones(inside.shape)
        if inside.all():
            return -torch.ones(inside.shape)
        to_class = torch.as_tensor(distance_transform_edt(~inside))
        to_background = torch.as_tensor(distance_transform_edt(inside))
        sdm = to_class / to_class.max() - to_background / to_background.max()
        # distance 1 = a face neighbour is background: the inner boundary
        return torch.where(to_background == 1, 0.0, sdm).to(torch.float32)


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
