"""The first stage of BCP: labelled patches in labelled ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from simcvd_bundle.losses import RegionSegmentationLoss, SegmentationLoss
from simcvd_bundle.training import LabeledCopyPaste


def batch(patches: int) -> dict[str, dict[str, Tensor]]:
    """Patch i has the intensity i + 1 and the class i % 3 everywhere."""
    number = torch.arange(float(patches)).view(-1, 1, 1, 1, 1)
    shape = (patches, 1, 9, 6, 3)
    sdm = torch.zeros(patches, 2, 9, 6, 3)
    return {"labeled": {"image": (number + 1).expand(shape), "label": (number % 3).expand(shape), "sdm": sdm}}


def test_a_box_of_the_second_half_lies_in_the_first() -> None:
    torch.manual_seed(0)
    places = set()
    for _ in range(20):
        mixed = LabeledCopyPaste(box=2 / 3)(batch(5))
        inside = mixed["pseudo"]
        assert mixed["image"].shape == (2, 1, 9, 6, 3)
        assert mixed["soft_label"].shape == (2, 3, 9, 6, 3)
        box = inside[0, 0].nonzero()
        assert (box.amax(0) - box.amin(0) + 1).tolist() == [6, 4, 2]
        assert len(box) == 6 * 4 * 2
        places.add(tuple(box[0].tolist()))
        for i in range(2):
            assert mixed["image"][i][inside[i]].unique().tolist() == [i + 3]
            assert mixed["image"][i][~inside[i]].unique().tolist() == [i + 1]
            label = mixed["soft_label"][i].argmax(0)[None]
            assert label[inside[i]].unique().tolist() == [(i + 2) % 3]
            assert label[~inside[i]].unique().tolist() == [i % 3]
    assert len(places) > 5


def test_both_regions_weigh_the_same() -> None:
    """With a weight of 1 the loss is that of the box plus that of the rest, each a segmentation loss of its voxels."""
    torch.manual_seed(0)
    mixed = LabeledCopyPaste(box=2 / 3)(batch(4))
    logits = torch.randn(2, 3, 9, 6, 3)
    total = float(RegionSegmentationLoss(1.0)({"logits": logits}, mixed))
    parts = [float(RegionSegmentationLoss(0.0)({"logits": logits}, {**mixed, "pseudo": region}))
             for region in (mixed["pseudo"], ~mixed["pseudo"])]  # fmt: skip
    assert total == pytest.approx(sum(parts), rel=1e-5)
    whole = float(
        SegmentationLoss()({"logits": logits}, {"label": mixed["soft_label"].argmax(1, keepdim=True).float()})
    )
    assert total > whole > 0


def test_one_patch_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="two labelled patches: set labeled_batch_size to at least 2"):
        LabeledCopyPaste()(batch(1))
