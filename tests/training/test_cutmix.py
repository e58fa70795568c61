"""AD-MT: boxes of unlabelled patches, two teachers in turn, and whom the student believes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from probes import engine_at
from torch import Tensor, nn

from simcvd_bundle.losses import PseudoLabelLoss
from simcvd_bundle.networks import TwoTeachers, VNet, VNetOutput
from simcvd_bundle.training import AlternatingTeachersHandler, CutMix, RandomIntensity

SHAPE = (2, 1, 6, 8, 4)


def unlabeled(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, *SHAPE[2:])
    members = torch.randn(2, 2, *shape[1:], generator=generator)
    image = torch.stack([torch.zeros(SHAPE[1:]), torch.ones(SHAPE[1:])])
    return {"image": image, "teacher_logits": torch.randn(shape, generator=generator), "teacher_extra_logits": members}


def test_a_box_of_the_other_patch_and_all_that_belongs_to_it() -> None:
    torch.manual_seed(0)
    batch = unlabeled()
    mixed = CutMix(alpha=4)({"unlabeled": batch})
    moved = mixed["image"][:1] == 1
    assert torch.equal(mixed["image"][1:] == 0, moved)
    assert 0 < moved.float().mean() < 1
    corners = [(int(n.min()), int(n.max()) + 1) for n in moved[0, 0].nonzero(as_tuple=True)]
    assert math.prod(last - first for first, last in corners) == moved.sum()
    q, masks = batch["teacher_logits"].softmax(1), batch["teacher_extra_logits"].argmax(2)
    conflict = (masks[:, 0] != masks[:, 1])[:, None]
    for name, entry in (("soft_target", q), ("conflict", conflict)):
        assert torch.equal(mixed[name], torch.where(moved, entry.flip(0), entry))


def test_one_teacher_contradicts_nobody() -> None:
    batch = unlabeled()
    del batch["teacher_extra_logits"]
    assert not CutMix()({"unlabeled": batch})["conflict"].any()


def test_patches_that_are_missing_and_bad_numbers_are_named() -> None:
    batch = {name: entry[:1] for name, entry in unlabeled().items()}
    for streams in ({"unlabeled": batch}, {}):
        with pytest.raises(ValueError, match=r"CutMix needs at least two .*set unlabeled_batch_size"):
            CutMix()(streams)
    with pytest.raises(ValueError, match="CutMix: alpha must be positive, got 0"):
        CutMix(0)
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\], got 2"):
        PseudoLabelLoss(2)
    for settings in ({"contrast": 1.0}, {"brightness": -1.0}, {"gamma": (2.0, 1.0)}):
        with pytest.raises(ValueError, match="RandomIntensity: contrast must lie in"):
            RandomIntensity(**settings)  # type: ignore[arg-type]


def test_the_loss_is_that_of_a_loop_over_voxels() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, teacher = (2 * torch.randn(2, 3, 3, 2, 2, generator=generator) for _ in range(2))
    conflict = torch.rand(2, 1, 3, 2, 2, generator=generator) < 0.5
    q = teacher.softmax(1)
    total, kinds = 0.0, set()
    for b, x, y, z in torch.cartesian_prod(*map(torch.arange, (2, 3, 2, 2))).tolist():
        own, believed = logits[b, :, x, y, z].softmax(0), q[b, :, x, y, z]
        entropies = [-(p * p.log()).sum() for p in (own, believed)]
        student = bool(conflict[b, 0, x, y, z]) and bool(entropies[0] < entropies[1])
        believed = own if student else believed
        kinds.add((student, bool(believed.max() >= 0.75)))
        if believed.max() >= 0.75:
            total -= float(own[believed.argmax()].log())
    assert len(kinds) == 4
    loss = PseudoLabelLoss(0.75)({"logits": logits}, {"soft_target": q, "conflict": conflict})
    torch.testing.assert_close(loss, torch.tensor(total / 24))


def test_the_loss_of_unsure_teachers_is_0_and_only_the_student_learns() -> None:
    entries = {"soft_target": torch.full(SHAPE, 0.5).repeat(1, 2, 1, 1, 1), "conflict": torch.zeros(SHAPE).bool()}
    logits = torch.zeros(2, 2, *SHAPE[2:], requires_grad=True)
    assert float(PseudoLabelLoss()({"logits": logits}, entries)) == 0
    entries["soft_target"] = torch.stack([torch.full(SHAPE[:1] + SHAPE[2:], v) for v in (0.1, 0.9)], 1).requires_grad_()
    PseudoLabelLoss()({"logits": logits}, entries).backward()
    assert (logits.grad[:, 1] < 0).all()  # type: ignore[index]
    assert entries["soft_target"].grad is None


class Fixed(nn.Module):
    """A network that always gives its parameter."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor, return_all: bool = False) -> VNetOutput:
        """What training needs."""
        return VNetOutput(self.logits, self.logits[:, 1:], self.logits)


def test_the_surer_teacher_counts_more() -> None:
    pair = TwoTeachers(Fixed(torch.zeros(1, 2, 1, 1, 1)))
    singles = [torch.tensor([0.1, 0.9]), torch.tensor([0.6, 0.4])]
    for member, single in zip(pair.members, singles, strict=True):
        member.logits.data = single.log().reshape(1, 2, 1, 1, 1)
    weights = [math.exp(float((q * q.log()).sum())) for q in singles]
    expected = sum((w * q for w, q in zip(weights, singles, strict=True)), torch.zeros(2)) / sum(weights)
    output = pair(torch.zeros(1, 1, 1, 1, 1), return_all=True)
    torch.testing.assert_close(output.logits.softmax(1).flatten(), expected)
    torch.testing.assert_close(pair(torch.zeros(1, 1, 1, 1, 1)), output.logits)
    torch.testing.assert_close(output.extra_logits.softmax(2)[0, :, :, 0, 0, 0], torch.stack(singles))


def handler(student: nn.ModuleDict, teacher: nn.ModuleDict, **settings: Any) -> AlternatingTeachersHandler:
    made = AlternatingTeachersHandler(student, teacher, **settings)
    for member in made.teachers:
        member.start(engine_at(0))
    return made


def test_teachers_are_moved_in_turn_and_the_turns_do_not_depend_on_the_start() -> None:
    student = nn.ModuleDict({"network": VNet(base_channels=1)})
    teacher = nn.ModuleDict({"network": TwoTeachers(student["network"])})
    made = handler(student, teacher, decay=0.5, seed=3, longest=4)
    turns = []
    for iteration in range(1, 40):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(1)
        before = [next(member.parameters()).clone() for member in teacher["network"].members]
        made(engine_at(iteration))
        after = [next(member.parameters()) for member in teacher["network"].members]
        moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert sum(moved) == 1
        turns.append(moved.index(True))
    changes = [0] + [i for i in range(1, 39) if turns[i] != turns[i - 1]]
    lengths = {b - a for a, b in itertools.pairwise(changes)}
    assert lengths <= {1, 2, 3, 4}
    assert len(lengths) > 1
    again = AlternatingTeachersHandler(student, teacher, seed=3, longest=4)
    assert [again.turn(n) for n in reversed(range(1, 40))][::-1] == turns


def test_until_a_teacher_is_needed_both_are_the_student() -> None:
    student = nn.ModuleDict({"network": VNet(base_channels=1)})
    teacher = nn.ModuleDict({"network": TwoTeachers(VNet(base_channels=1))})
    made = handler(student, teacher, start=2)
    for parameter in student.parameters():
        parameter.data.add_(1)
    made(engine_at(2))
    for member in teacher["network"].members:
        assert all(torch.equal(a, b) for a, b in zip(member.parameters(), student.parameters(), strict=True))
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        AlternatingTeachersHandler(student, teacher, longest=0)


def test_intensities_change_by_patch_and_labelled_patches_stay() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 1, 4, 4, 4).repeat(2, 1, 1, 1, 1)
    seen = RandomIntensity()({"labeled": image, "unlabeled": image})
    assert torch.equal(seen["labeled"], image)
    assert not torch.equal(seen["unlabeled"][0], seen["unlabeled"][1])
    order = image[0].flatten().argsort()
    assert (seen["unlabeled"][0].flatten()[order].diff() >= 0).all()
    still = RandomIntensity(0, 0, (1, 1))({"unlabeled": image})["unlabeled"]
    torch.testing.assert_close(still, image)
    assert RandomIntensity()({"labeled": image}).keys() == {"labeled"}
