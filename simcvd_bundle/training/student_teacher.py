"""The student-teacher pass of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from simcvd_bundle.losses.weighted import WeightedTerms
from simcvd_bundle.networks.vnet import VNetOutput
from simcvd_bundle.training.mixes import Mix
from simcvd_bundle.training.views import View, seen_through
from simcvd_bundle.utils.precision import autocast, known_precision


class StudentTeacherInferer(Inferer):
    """One training pass: the teacher without gradient on the unlabelled patches, then the student with gradient.

    Each sees the batch through views of its own, drawn independently; network dropout and the heads' dropout are
    independent too: SimCVD's three perturbations. Between the two passes mixes make new streams out of what the student
    would see, the labels and the teacher's predictions. Nothing is computed for a stream that no term reads: the
    student sees the others in one pass, and where no term or mix reads the teacher's predictions no teacher runs.

    The boundary-aware map is ``X + sdm_scale * SDM``, the literal sum of the paper, where ``X`` is the view that the
    network saw (the mean over channels of multi-channel images). Each slice along the last axis becomes one embedding.
    Heads and sums run in float32 whatever the precision.

    Args:
        teacher: ``network``, of the same form as the student and in train mode (it has its own batch statistics), and
            ``head``, its projection head.
        head: the student's projection head; ``None`` computes no embeddings, and there is no contrastive term.
        student_views: what the student sees the images through.
        teacher_views: the same for the teacher.
        mixes: by the name of the stream that each makes.
        loss: tells which streams its terms read at this iteration; ``None`` takes all.
        teacher_samples: further passes of the teacher, each with views of its own (UA-MT: 8); 0 for none.
        boundary_map: what is added to the image: ``"sdm"`` (paper) or ``"probability"`` (its ablation).
        sdm_scale: factor of the added map (paper: 1).
        num_slices: B of eq. (2), slices drawn at random from the batch; ``None`` takes all.
        precision: one of ``PRECISIONS`` or ``"auto"``, for the two networks.

    Raises:
        ValueError: for an unknown ``boundary_map`` or ``precision``, or other numbers than at least 0 (``sdm_scale``,
            ``teacher_samples``) and at least 1 (``num_slices``).
    """

    def __init__(
        self,
        teacher: nn.ModuleDict,
        head: nn.Module | None,
        student_views: Sequence[View] = (),
        teacher_views: Sequence[View] = (),
        mixes: Mapping[str, Mix] | None = None,
        loss: WeightedTerms | None = None,
        teacher_samples: int = 0,
        boundary_map: str = "sdm",
        sdm_scale: float = 1.0,
        num_slices: int | None = None,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        if boundary_map not in ("sdm", "probability"):
            raise ValueError(f"boundary_map must be 'sdm' or 'probability', got {boundary_map!r}.")
        if not sdm_scale >= 0 or (num_slices is not None and num_slices < 1) or teacher_samples < 0:
            raise ValueError(
                "train::inferer: sdm_scale and teacher_samples must be at least 0 and num_slices at least 1 or null, "
                f"got {sdm_scale}, {teacher_samples} and {num_slices}."
            )
        self.teacher = teacher
        self.head = head
        self.student_views = student_views
        self.teacher_views = teacher_views
        self.mixes = mixes or {}
        self.loss = loss
        self.teacher_samples = teacher_samples
        self.boundary_map = boundary_map
        self.sdm_scale = sdm_scale
        self.num_slices = num_slices
        self.precision = known_precision(precision)

    def __call__(  # type: ignore[override]
        self, inputs: Mapping[str, Mapping[str, Tensor]], network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> dict[str, dict[str, Tensor]]:
        """Run both networks.

        Args:
            inputs: the batch by stream and entry: ``image`` ``(B, channels, H, W, D)``, and the labels, for mixes.
            network: the student, in train mode.
            *args: not used (MONAI's signature).
            **kwargs: not used.

        Returns:
            By stream what the loss's terms read: ``image``, the view that the student saw, and ``logits``, ``sdm`` and
            ``features`` of the student (``VNetOutput``); for ``unlabeled`` also ``teacher_logits``, ``teacher_sdm``,
            ``teacher_features``, with ``teacher_samples`` ``teacher_mean``, the mean of their probabilities, and, with
            a head, ``embeddings`` and ``teacher_embeddings`` ``(slices, width)``; for the stream of a mix also what the
            mix returned.
        """
        images = {stream: entries["image"] for stream, entries in inputs.items()}
        read = {*images, *self.mixes} if self.loss is None else self.loss.current_streams()
        mixes = {stream: mix for stream, mix in self.mixes.items() if stream in read}
        pred = {stream: {"image": view} for stream, view in seen_through(self.student_views, images).items()}
        teacher: dict[str, Tensor] = {}
        if "unlabeled" in images and (mixes or self.loss is None or self.loss.needs_teacher()):
            teacher_image = seen_through(self.teacher_views, images)["unlabeled"]
            teacher = self._teacher(teacher_image).entries()
            pred["unlabeled"] |= {f"teacher_{name}": entry for name, entry in teacher.items()}
            if self.teacher_samples:
                views = (seen_through(self.teacher_views, images)["unlabeled"] for _ in range(self.teacher_samples))
                samples = [self._teacher(view).logits.float().softmax(1) for view in views]
                pred["unlabeled"]["teacher_mean"] = torch.stack(samples).mean(0)
        for stream, mix in mixes.items():
            with torch.no_grad():
                pred[stream] = mix({name: {**inputs[name], **pred[name]} for name in inputs})
        pred = {stream: entries for stream, entries in pred.items() if stream in read}
        self._student(pred, network)
        if self.head is not None and teacher and "unlabeled" in pred:
            unlabeled = pred["unlabeled"]
            slices = self.boundary_slices(unlabeled["image"], unlabeled)
            teacher_slices = self.boundary_slices(teacher_image, teacher)
            if self.num_slices is not None:
                chosen = torch.randperm(len(slices), device=slices.device)[: self.num_slices]
                slices, teacher_slices = slices[chosen], teacher_slices[chosen]
            unlabeled["embeddings"] = self.head(slices)
            with torch.no_grad():
                unlabeled["teacher_embeddings"] = self.teacher["head"](teacher_slices)
        return pred

    def _student(self, pred: dict[str, dict[str, Tensor]], network: Callable[..., Any]) -> None:
        """Add what the student gives for the images of all streams, in one pass."""
        images = torch.cat([entries["image"] for entries in pred.values()])
        with autocast(images, self.precision):
            student: VNetOutput = network(images, return_all=True)
        sizes = [len(entries["image"]) for entries in pred.values()]
        for entries, part in zip(pred.values(), student.split(sizes), strict=True):
            entries |= part.entries()

    def _teacher(self, view: Tensor) -> VNetOutput:
        """What the teacher gives for a view."""
        with torch.no_grad(), autocast(view, self.precision):
            output: VNetOutput = self.teacher["network"](view, return_all=True)
        return output

    def boundary_slices(self, view: Tensor, output: Mapping[str, Tensor]) -> Tensor:
        """Slices of the boundary-aware maps: ``(U, channels, H, W, D)`` -> ``(U * D, C, H, W)``, float32."""
        added = output["sdm"].float() if self.boundary_map == "sdm" else output["logits"].float().softmax(1)[:, 1:]
        boundary = view.mean(1, keepdim=True) + self.sdm_scale * added
        return boundary.permute(0, 4, 1, 2, 3).flatten(0, 1)
