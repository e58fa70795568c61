"""How certain a network is of its mask, without a label: what it tells of a scan to look at, or to label next."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor

from simcvd_bundle.data.cases import case_name
from simcvd_bundle.networks.vnet import split_output


def expected_dice(probability: Tensor) -> float:
    """Dice that the network's own probabilities expect of its mask, mean over the classes.

    ``2 sum(p m) / (sum(p) + sum(m))`` for a class of probability ``p`` and mask ``m``: were each voxel of the class
    with probability ``p``, its true Dice would be about that. It is no forecast of the true Dice, as networks that few
    labels trained are too certain; what counts is the order of the scans.

    Args:
        probability: of background and ``C`` classes, ``(C + 1, *spatial)``.

    Returns:
        0 to 1. A class that is not found counts 0.
    """
    mask = probability.argmax(0)
    scores = []
    for number, inside in enumerate(probability[1:].float(), 1):
        found = mask == number
        scores.append(2 * float(inside[found].sum()) / (float(inside.sum()) + int(found.sum())) if found.any() else 0.0)
    return sum(scores) / len(scores)


class CertaintyHandler:
    """Note the `expected_dice` of every scan of an inference.

    Args:
        num_classes: number of foreground classes.

    Attributes:
        scores: by the name of the scan.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.scores: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator: after the network, before what its output becomes."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Score the scans of this batch."""
        output: Any = engine.state.output
        for image, pred in zip(output["image"], output["pred"], strict=True):
            self.scores[case_name(image)] = expected_dice(split_output(pred, self.num_classes)[0])
