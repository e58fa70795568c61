"""How far the two branches of the network disagree on a case: a score to choose the next case to label by."""

from __future__ import annotations

import torch
from torch import Tensor

from simcvd_bundle.networks.vnet import split_output


def mask_disagreement(pred: Tensor) -> float:
    """One minus the overlap of the mask by probability and the mask by signed distance, mean over the classes.

    The mask by signed distance has the voxels deepest inside, as many as the mask by probability: the contrast shifts
    the level of the predicted map (docs/methods.md), so its zero is no boundary. The two branches share all layers but
    their last, and trained cases teach them to agree; where they do not, the network has not seen the like (the
    discrepancy that DTC penalises, Luo et al., AAAI 2021).

    Args:
        pred: ``(2 C + 1, *spatial)``, probabilities of background and ``C`` classes, then their signed distance maps,
            as the inferers give with ``with_sdm``.

    Returns:
        0 (equal masks) to 1. A class that is not found counts 1: an image in which nothing is found says more about the
        network than about the image.
    """
    num_classes = len(pred) // 2
    probability, sdm = split_output(pred, num_classes)
    by_probability = probability.argmax(0)
    scores = []
    for number in range(1, num_classes + 1):
        mask = (by_probability == number).flatten()
        size = int(mask.sum())
        deepest = sdm[number - 1].flatten().topk(size, largest=False).indices
        scores.append(1 - int(mask[deepest].sum()) / size if size else 1.0)
    return float(torch.tensor(scores).mean())
