"""How good a mask is likely to be, without ground truth."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from simcvd_bundle.networks.vnet import split_output
from simcvd_bundle.utils.atomic import digest

logger = logging.getLogger(__name__)


def expected_dice(pred: Tensor, num_classes: int) -> float:
    """Dice that the probabilities themselves expect of the mask, mean over the classes.

    With probability p and mask m of a class, 2 sum(p m) / (sum(p) + sum(m)): the soft Dice of the mask and its own
    probabilities. It falls with doubt inside the mask and with probability outside of it. A class that is not found
    counts 0: a network that has lost a class is to be seen; a scan that rightly has none is looked at in vain. It is no
    forecast of the true Dice, as networks that few labels trained are too certain; what counts is the order.

    Args:
        pred: probabilities of background and ``C`` classes ``(C + 1, *spatial)``; signed distance maps may follow.
        num_classes: number of foreground classes ``C``.

    Returns:
        0 to 1.
    """
    probability = split_output(torch.as_tensor(pred), num_classes)[0]
    best = probability.amax(0)
    scores = []
    for number in range(1, num_classes + 1):
        mask = (probability[number] == best) & (probability[0] < best)
        size = int(mask.sum())
        inside = probability[number]
        scores.append(float(2 * inside[mask].sum() / (inside.sum() + size)) if size else 0.0)
    return sum(scores) / num_classes


class Quality:
    """Columns ``quality``, see `expected_dice`, and ``predicted_dice``: a line through labelled cases.

    Args:
        num_classes: number of foreground classes.
        weights: file of the network's weights; several have no predicted Dice.
        calibration: JSON file with the SHA-256 of the weights that it is for, ``slope`` and ``intercept``
            (``benchmarks/quality.py`` writes it); without the file, or with other weights, nothing is predicted.
    """

    def __init__(self, num_classes: int, weights: str, calibration: str) -> None:
        self.num_classes = num_classes
        self.line: tuple[float, float] | None = None
        if Path(calibration).is_file():
            content = json.loads(Path(calibration).read_text(encoding="utf-8"))
            if content["weights"] == digest(str(weights)):
                self.line = content["slope"], content["intercept"]
            else:
                logger.info("%s is for other weights, so no Dice is predicted.", calibration)

    def __call__(self, pred: Tensor) -> Mapping[str, float]:
        """Score what the inferer gives for one scan."""
        score = expected_dice(pred, self.num_classes)
        if self.line is None:
            return {"quality": score}
        slope, intercept = self.line
        return {"quality": score, "predicted_dice": min(max(slope * score + intercept, 0.0), 1.0)}
