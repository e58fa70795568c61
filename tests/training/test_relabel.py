"""ATSO's parts: the teacher of a stage, and patches with its mask as their target."""

from __future__ import annotations

import pytest
import torch
from probes import engine_at
from torch import Tensor, nn

from simcvd_bundle.losses import RegionSegmentationLoss, SegmentationLoss
from simcvd_bundle.training import ArgMax, Relabel, StageTeacherHandler


def test_a_stage_keeps_the_student_of_its_beginning() -> None:
    student, teacher = nn.Sequential(nn.BatchNorm1d(1)), nn.Sequential(nn.BatchNorm1d(1))
    handler = StageTeacherHandler(student, teacher, start=2, stage_length=3)
    assert not any(module.training for module in teacher.modules())
    held: list[float] = []
    for iteration in range(10):
        for tensor in student.state_dict().values():
            tensor.fill_(iteration)
        handler(engine_at(iteration))
        held.append(float(next(teacher.parameters())))
        assert held[-1] in (1.0, float(teacher[0].running_mean))  # type: ignore[arg-type]
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert held == [1, 1, 2, 2, 2, 5, 5, 5, 8, 8]
    with pytest.raises(ValueError, match="start of at least 0 and a stage_length of at least 1, got 0 and 0"):
        StageTeacherHandler(student, teacher, start=0, stage_length=0)


def batch() -> dict[str, dict[str, Tensor]]:
    return {"unlabeled": {"image": torch.randn(2, 2, 4, 4, 4), "teacher_logits": torch.randn(2, 3, 4, 4, 4)}}


def test_patches_stay_and_get_the_mask_of_the_teacher() -> None:
    """The loss of them is the segmentation loss with that mask for a label, and the teacher gets no gradient."""
    torch.manual_seed(0)
    entries = batch()
    teacher = entries["unlabeled"]["teacher_logits"].requires_grad_()
    made = Relabel([ArgMax()])(entries)
    assert torch.equal(made["image"], entries["unlabeled"]["image"])
    assert made["pseudo"].all()
    mask = teacher.argmax(1, keepdim=True)
    assert torch.equal(made["soft_label"].argmax(1, keepdim=True), mask)
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    loss = RegionSegmentationLoss(1.0)({"logits": logits}, made)
    torch.testing.assert_close(loss, SegmentationLoss()({"logits": logits}, {"label": mask}))
    loss.backward()
    assert teacher.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_a_patch_of_background_is_a_target_too() -> None:
    entries = batch()
    entries["unlabeled"]["teacher_logits"][:, 0] = 10
    made = Relabel([ArgMax()])(entries)
    assert made["soft_label"][:, 0].all()
    loss = RegionSegmentationLoss(1.0)({"logits": entries["unlabeled"]["teacher_logits"]}, made)
    assert 0 < float(loss) < 1
