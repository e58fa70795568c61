"""The student-teacher pass of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from simcvd_bundle.networks.vnet import VNetOutput
from simcvd_bundle.utils.precision import autocast, known_precision


class StudentTeacherInferer(Inferer):
    """One training pass: the student with gradient on all patches, the teacher without on the unlabelled ones.

    The labelled patches come first and stay clean. The unlabelled ones are seen through noise, ``clip(N(0, noise_std),
    -noise_clip, noise_clip)``, drawn anew for student and teacher; network dropout and the heads' dropout are
    independent too: SimCVD's three perturbations.

    The boundary-aware map is ``X + sdm_scale * SDM``, the literal sum of the paper, where ``X`` is the view that the
    network saw (the mean over channels of multi-channel images). Each slice along the last axis becomes one embedding.
    Heads and sums run in float32 whatever the precision.

    Args:
        teacher: network of the same form as the student; kept in train mode, it has its own batch statistics.
        projection_head: the student's head.
        teacher_head: the teacher's head.
        labeled_batch_size: number of leading patches that are labelled.
        noise_std: standard deviation of the noise eta of eq. (5), in units of the (normalised) intensity.
        noise_clip: bound of the noise.
        boundary_map: what is added to the image: ``"sdm"`` (paper) or ``"probability"`` (its ablation).
        sdm_scale: factor of the added map (paper: 1).
        num_slices: B of eq. (2), slices drawn at random from the batch; ``None`` takes all.
        project: compute the embeddings (without them there is no contrastive term).
        precision: one of ``PRECISIONS``, for the two networks.

    Raises:
        ValueError: for an unknown ``boundary_map`` or ``precision``.
    """

    def __init__(
        self,
        teacher: nn.Module,
        projection_head: nn.Module,
        teacher_head: nn.Module,
        labeled_batch_size: int,
        noise_std: float = 0.1,
        noise_clip: float = 0.2,
        boundary_map: str = "sdm",
        sdm_scale: float = 1.0,
        num_slices: int | None = None,
        project: bool = True,
        precision: str = "float32",
    ) -> None:
        super().__init__()
        if boundary_map not in ("sdm", "probability"):
            raise ValueError(f"boundary_map must be 'sdm' or 'probability', got {boundary_map!r}.")
        self.teacher = teacher
        self.projection_head = projection_head
        self.teacher_head = teacher_head
        self.labeled_batch_size = labeled_batch_size
        self.noise_std = noise_std
        self.noise_clip = noise_clip
        self.boundary_map = boundary_map
        self.sdm_scale = sdm_scale
        self.num_slices = num_slices
        self.project = project
        self.precision = known_precision(precision)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run both networks.

        Args:
            inputs: image patches ``(B, channels, H, W, D)``, labelled first.
            network: the student, in train mode.
            *args: not used (MONAI's signature).
            **kwargs: not used.

        Returns:
            What ``SimCVDLoss`` reads: ``logits``, ``sdm``; with unlabelled patches (``U`` of them) also
            ``teacher_logits``, ``teacher_sdm``, ``features``, ``teacher_features`` and, with ``project``,
            ``embeddings`` and ``teacher_embeddings`` ``(slices, width)``.
        """
        labeled, unlabeled = inputs[: self.labeled_batch_size], inputs[self.labeled_batch_size :]
        student_view = self.add_noise(unlabeled)
        with autocast(inputs, self.precision):
            student: VNetOutput = network(torch.cat([labeled, student_view]), return_all=True)
        pred = {"logits": student.logits, "sdm": student.sdm}
        if len(unlabeled) == 0:
            return pred
        teacher_view = self.add_noise(unlabeled)
        with torch.no_grad(), autocast(inputs, self.precision):
            teacher: VNetOutput = self.teacher(teacher_view, return_all=True)
        first = len(labeled)
        student = VNetOutput(*(output[first:] for output in student))
        pred |= {
            "features": student.features,
            "teacher_logits": teacher.logits,
            "teacher_sdm": teacher.sdm,
            "teacher_features": teacher.features,
        }
        if self.project:
            slices, teacher_slices = (
                self.boundary_slices(view, output)
                for view, output in ((student_view, student), (teacher_view, teacher))
            )
            if self.num_slices is not None:
                chosen = torch.randperm(len(slices), device=slices.device)[: self.num_slices]
                slices, teacher_slices = slices[chosen], teacher_slices[chosen]
            pred["embeddings"] = self.projection_head(slices)
            with torch.no_grad():
                pred["teacher_embeddings"] = self.teacher_head(teacher_slices)
        return pred

    def add_noise(self, images: Tensor) -> Tensor:
        """Add the noise of eq. (5) to ``images``."""
        noise = torch.randn_like(images).mul_(self.noise_std)
        return noise.clamp_(-self.noise_clip, self.noise_clip).add_(images)

    def boundary_slices(self, view: Tensor, output: VNetOutput) -> Tensor:
        """Slices of the boundary-aware maps: ``(U, channels, H, W, D)`` -> ``(U * D, C, H, W)``, float32."""
        added = output.sdm.float() if self.boundary_map == "sdm" else output.logits.float().softmax(1)[:, 1:]
        boundary = view.mean(1, keepdim=True) + self.sdm_scale * added
        return boundary.permute(0, 4, 1, 2, 3).flatten(0, 1)
