"""The score by which the next case to label is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simcvd_bundle.inference.disagreement import mask_disagreement


def pred(probability: list[list[float]], sdm: list[list[float]]) -> Tensor:
    """Channels over a row of voxels: foreground probabilities of each class, signed distance maps of each class."""
    foreground = torch.tensor(probability)
    channels = torch.cat([1 - foreground.sum(0, keepdim=True), foreground, torch.tensor(sdm)])
    return channels[:, :, None, None]


@pytest.mark.parametrize(
    ("probability", "sdm", "expected"),
    [
        ([0.9, 0.8, 0.1, 0.2], [-0.5, -0.1, 0.3, 0.9], 0.0),
        ([0.9, 0.8, 0.1, 0.2], [0.1, 0.2, 0.3, 0.9], 0.0),  # shifted
        ([0.9, 0.8, 0.1, 0.2], [-0.9, -0.8, -0.7, -0.1], 0.0),
        ([0.9, 0.8, 0.1, 0.2], [-0.5, 0.4, 0.3, 0.9], 0.5),
        ([0.9, 0.8, 0.1, 0.2], [0.5, 0.7, -0.3, 0.1], 1.0),
        ([0.1, 0.2, 0.1, 0.2], [-0.5, 0.1, 0.3, 0.9], 1.0),  # nothing found
    ],
)
def test_one_minus_overlap_of_the_two_masks(probability: list[float], sdm: list[float], expected: float) -> None:
    assert mask_disagreement(pred([probability], [sdm])) == pytest.approx(expected)


def test_several_classes_are_averaged() -> None:
    """The first class agrees, the second in one of its two voxels."""
    score = mask_disagreement(pred([[0.9, 0.1, 0.1, 0.0], [0.0, 0.8, 0.2, 0.9]], [[-1.0, 1, 1, 1], [1.0, -1, -1, 1]]))
    assert score == pytest.approx((0 + 0.5) / 2)
