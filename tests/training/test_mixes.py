"""Copy-paste against a hand example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simcvd_bundle.training import ArgMax, ClassGuard, CopyPaste
from simcvd_bundle.training.pseudo_labels import one_hot

SHAPE = (6, 9, 3)


def batch(size: int = 2) -> dict[str, dict[str, Tensor]]:
    """Labelled patches of 10, 11, ..., all class 1; unlabelled ones of 20, 21, ..., all class 2 for the teacher."""
    values = torch.arange(size).float().view(size, 1, 1, 1, 1).expand(size, 1, *SHAPE)
    logits = torch.tensor([0.0, 1.0, 3.0]).view(1, 3, 1, 1, 1).expand(size, 3, *SHAPE)
    labeled = {"image": values + 10, "label": torch.ones(size, 1, *SHAPE)}
    return {"labeled": labeled, "unlabeled": {"image": values + 20, "teacher_logits": logits}}


def naive(mixed: dict[str, Tensor], first: list[int], length: list[int], number: int, box_is_pseudo: bool) -> None:
    """Patch ``number`` voxel by voxel: inside of the box from the one source, outside from the other."""
    for place in torch.cartesian_prod(*map(torch.arange, SHAPE)).tolist():
        inside = all(low <= x < low + many for x, low, many in zip(place, first, length, strict=True))
        pseudo = inside == box_is_pseudo
        at = (number, slice(None), *place)
        assert mixed["pseudo"][at].tolist() == [pseudo]
        assert mixed["image"][at].tolist() == [(20 if pseudo else 10) + number]
        assert mixed["soft_label"][at].tolist() == ([0, 0, 1] if pseudo else [0, 1, 0])


def test_both_ways_by_hand() -> None:
    """A box of 4 x 6 x 2 voxels, the same for the batch: neighbours are mixed in opposite directions."""
    torch.manual_seed(0)
    mixed = CopyPaste(2 / 3, [ArgMax()])(batch())
    assert mixed.keys() == {"image", "soft_label", "pseudo"}
    which = [bool(mixed["pseudo"][number].float().mean() < 0.5) for number in range(2)]  # 48 of 162 voxels in the box
    assert sorted(which) == [False, True]
    box = mixed["pseudo"][which.index(True), 0].nonzero()
    first, length = box.amin(0).tolist(), (box.amax(0) - box.amin(0) + 1).tolist()
    assert length == [4, 6, 2]
    for number, box_is_pseudo in enumerate(which):
        naive(mixed, first, length, number, box_is_pseudo)


def test_boxes_lie_everywhere_and_both_directions_come() -> None:
    torch.manual_seed(0)
    mix = CopyPaste(0.5)
    drawn = [mix(batch(1))["pseudo"][0, 0] for _ in range(60)]
    pasted = [pseudo for pseudo in drawn if pseudo.sum() < pseudo.numel() / 2]
    assert 15 < len(pasted) < 45
    covered = torch.stack(pasted).any(0)
    assert all(covered.any(tuple({0, 1, 2} - {axis})).all() for axis in range(3))


def test_a_draw_is_that_of_torch() -> None:
    masks = []
    for _ in range(2):
        torch.manual_seed(3)
        masks.append(CopyPaste()(batch())["pseudo"])
    assert torch.equal(*masks)


def test_the_guard_sees_labels_and_pseudo_labels() -> None:
    seen: list[Any] = []

    class Guard(ClassGuard):
        def __call__(self, *tensors: Tensor) -> Tensor:
            seen.extend(tensors)
            return torch.zeros_like(tensors[0])

    mixed = CopyPaste(pseudo_label=[ArgMax()], guard=Guard({"1": "a", "2": "b"}))(batch())
    pseudo_label, probability, label = seen
    assert torch.equal(label, one_hot(batch()["labeled"]["label"], 2))
    assert torch.equal(pseudo_label, ArgMax()(probability))
    assert torch.equal(mixed["soft_label"].sum(1, keepdim=True) == 0, mixed["pseudo"])


@pytest.mark.parametrize("box", [0.0, 1.0, -0.5, 1.5])
def test_a_box_out_of_its_range_raises(box: float) -> None:
    with pytest.raises(ValueError, match=f"box is a fraction of each axis between 0 and 1, both excluded, got {box}"):
        CopyPaste(box)


def test_streams_of_other_sizes_raise() -> None:
    few = {"labeled": batch(1)["labeled"], "unlabeled": batch(2)["unlabeled"]}
    for streams, sizes in ((few, "1 and 2"), ({"labeled": few["labeled"]}, "1 and 0")):
        with pytest.raises(ValueError, match=f"as many labelled as unlabelled patches, got {sizes}: set labeled_batch"):
            CopyPaste()(streams)
