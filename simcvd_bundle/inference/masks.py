"""From what the network says to the mask, and what is counted in it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from simcvd_bundle.data.foreground import pieces_of
from simcvd_bundle.networks.vnet import split_output


class MaskAndMapsd(MapTransform):
    """Part what inferers give: the mask under the key itself, probabilities and signed distance maps beside it.

    Args:
        keys: ``(C + 1, *spatial)`` or, with signed distance maps, ``(2 C + 1, *spatial)``.
        num_classes: number of foreground classes ``C``.
        keep_probability: keep the probabilities; without them a case takes a fraction of the memory.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, keep_probability: bool = False) -> None:
        super().__init__(keys)
        self.num_classes = num_classes
        self.keep_probability = keep_probability

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the key as the most probable of background and classes ``(1, *spatial)``, uint8.

        ``probability``, if kept, has the foreground classes ``(C, *spatial)``; ``sdm``, if there are such maps, too.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            probability, sdm = split_output(result[key], self.num_classes)
            result[key] = probability.argmax(0, keepdim=True).byte()
            if self.keep_probability:
                result["probability"] = probability[1:]
            if len(sdm):
                result["sdm"] = sdm
        return result


class KeepLargestd(MapTransform):
    """Keep the largest connected component of some classes (voxels that share a corner are connected).

    Args:
        keys: masks of class indices ``(1, H, W, D)``.
        classes: indices of the classes that are one piece, from 1 on.
    """

    def __init__(self, keys: KeysCollection, classes: Sequence[int]) -> None:
        super().__init__(keys)
        self.classes = classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the other components as background."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask = convert_to_tensor(result[key], track_meta=False)
            drop = torch.zeros_like(mask, dtype=torch.bool)
            for index in self.classes:
                pieces, sizes = pieces_of((mask[0] == index).cpu().numpy())
                if len(sizes) > 1:
                    drop[0] |= torch.as_tensor((pieces > 0) & (pieces != sizes.argmax() + 1), device=mask.device)
            result[key] = result[key].masked_fill(drop, 0)
        return result


class CountVoxelsd(MapTransform):
    """Put the number of voxels of each class of a mask beside it, as ``voxels``.

    Args:
        keys: the mask of class indices ``(1, H, W, D)``, uint8.
        num_classes: number of foreground classes.
    """

    def __init__(self, keys: KeysCollection, num_classes: int) -> None:
        super().__init__(keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the counts added, a list."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask = convert_to_tensor(result[key], track_meta=False)
            result["voxels"] = torch.bincount(mask.flatten().int(), minlength=self.num_classes + 1)[1:].tolist()
        return result
