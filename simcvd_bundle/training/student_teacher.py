"""The student-teacher pass of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from simcvd_bundle.networks.vnet import VNetOutput
from simcvd_bundle.training.views import View, seen_through
from simcvd_bundle.utils.precision import autocast, known_precision


class StudentTeacherInferer(Inferer):
    """One training pass: the student with gradient on all patches, the teacher without on the unlabelled ones.

    Each sees the batch through views of its own, drawn independently; network dropout and the heads' dropout are
    independent too: SimCVD's three perturbations. A batch without the stream ``unlabeled`` needs no teacher.

    The boundary-aware map is ``X + sdm_scale * SDM``, the literal sum of the paper, where ``X`` is the view that the
    network saw (the mean over channels of multi-channel images). Each slice along the last axis becomes one embedding.
    Heads and sums run in float32 whatever the precision.

    Args:
        teacher: ``network``, of the same form as the student and in train mode (it has its own batch statistics), and
            ``head``, its projection head.
        head: the student's projection head; ``None`` computes no embeddings, and there is no contrastive term.
        student_views: what the student sees the images through.
        teacher_views: the same for the teacher.
        boundary_map: what is added to the image: ``"sdm"`` (paper) or ``"probability"`` (its ablation).
        sdm_scale: factor of the added map (paper: 1).
        num_slices: B of eq. (2), slices drawn at random from the batch; ``None`` takes all.
        precision: one of ``PRECISIONS`` or ``"auto"``, for the two networks.

    Raises:
        ValueError: for an unknown ``boundary_map`` or ``precision``, or other numbers than at least 0 (``sdm_scale``)
            and at least 1 (``num_slices``).
    """

    def __init__(
        self,
        teacher: nn.ModuleDict,
        head: nn.Module | None,
        student_views: Sequence[View] = (),
        teacher_views: Sequence[View] = (),
        boundary_map: str = "sdm",
        sdm_scale: float = 1.0,
        num_slices: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if boundary_map not in ("sdm", "probability"):
            raise ValueError(f"boundary_map must be 'sdm' or 'probability', got {boundary_map!r}.")
        if not sdm_scale >= 0 or (num_slices is not None and num_slices < 1):
            raise ValueError(
                f"train::inferer: sdm_scale must be at least 0 and num_slices at least 1 or null, got {sdm_scale} and "
                f"{num_slices}."
            )
        self.teacher = teacher
        self.head = head
        self.student_views = student_views
        self.teacher_views = teacher_views
        self.boundary_map = boundary_map
        self.sdm_scale = sdm_scale
        self.num_slices = num_slices
        self.precision = known_precision(precision)

    def __call__(  # type: ignore[override]
        self, inputs: Mapping[str, Tensor], network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, dict[str, Tensor]]:
        """Run both networks.

        Args:
            inputs: image patches ``(B, channels, H, W, D)`` by stream.
            network: the student, in train mode.
            *args: not used (MONAI's signature).
            **kwargs: not used.

        Returns:
            By stream what the loss's terms read: ``logits``, ``sdm`` and ``features`` of the student (``VNetOutput``);
            for ``unlabeled`` also ``teacher_logits``, ``teacher_sdm``, ``teacher_features`` and, with a head,
            ``embeddings`` and ``teacher_embeddings`` ``(slices, width)``.
        """
        views = seen_through(self.student_views, inputs)
        images = torch.cat(list(views.values()))
        with autocast(images, self.precision):
            student: VNetOutput = network(images, return_all=True)
        sizes = [len(view) for view in views.values()]
        pred = {stream: part.entries() for stream, part in zip(views, student.split(sizes), strict=True)}
        if "unlabeled" not in inputs:
            return pred
        teacher_images = seen_through(self.teacher_views, inputs)["unlabeled"]
        with torch.no_grad(), autocast(teacher_images, self.precision):
            teacher = self.teacher["network"](teacher_images, return_all=True).entries()
        unlabeled = pred["unlabeled"]
        if self.head is not None:
            slices = self.boundary_slices(views["unlabeled"], unlabeled)
            teacher_slices = self.boundary_slices(teacher_images, teacher)
            if self.num_slices is not None:
                chosen = torch.randperm(len(slices), device=slices.device)[: self.num_slices]
                slices, teacher_slices = slices[chosen], teacher_slices[chosen]
            unlabeled["embeddings"] = self.head(slices)
            with torch.no_grad():
                teacher["embeddings"] = self.teacher["head"](teacher_slices)
        unlabeled |= {f"teacher_{name}": entry for name, entry in teacher.items()}
        return pred

    def boundary_slices(self, view: Tensor, output: Mapping[str, Tensor]) -> Tensor:
        """Slices of the boundary-aware maps: ``(U, channels, H, W, D)`` -> ``(U * D, C, H, W)``, float32."""
        added = output["sdm"].float() if self.boundary_map == "sdm" else output["logits"].float().softmax(1)[:, 1:]
        boundary = view.mean(1, keepdim=True) + self.sdm_scale * added
        return boundary.permute(0, 4, 1, 2, 3).flatten(0, 1)
