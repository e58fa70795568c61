"""Mixes: new streams out of the patches of others, their labels and the teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from simcvd_bundle.training.pseudo_labels import ClassGuard, PseudoLabelOperator, make_pseudo_label, one_hot

Mix = Callable[[Mapping[str, Mapping[str, Tensor]]], dict[str, Tensor]]
"""Takes the batch by stream and entry: ``image`` ``(B, channels, H, W, D)`` as the student would see it, the labels of
``labeled`` (``label``, ``sdm``), the teacher's output for ``unlabeled`` (``teacher_logits`` and so on). Returns the
entries of the new stream: ``image``, which the student will see, and the target under names that are none of the
network's outputs. Without gradient; draws from torch's generator."""


def two_unlabeled(batch: Mapping[str, Mapping[str, Tensor]], mix: str) -> Mapping[str, Tensor]:
    """Entries of the unlabelled patches, for a mix of two of them.

    Raises:
        ValueError: when there are not two.
    """
    unlabeled = batch.get("unlabeled", {"image": torch.empty(0)})
    count = len(unlabeled["image"])
    if count < 2:
        raise ValueError(f"{mix} needs at least two unlabelled patches, got {count}: set unlabeled_batch_size to 2.")
    return unlabeled


def draw_box(like: Tensor, fraction: float) -> Tensor:
    """A box at a random place, the same for all patches, ``fraction`` of each axis and at least one voxel long.

    Returns:
        Whether a voxel is inside, bool, in the shape of ``like``, ``(B, 1, H, W, D)``.
    """
    inside = torch.zeros_like(like, dtype=torch.bool)
    place = [slice(None)] * 2
    for size in like.shape[2:]:
        length = max(1, round(fraction * size))
        first = int(torch.randint(size - length + 1, ()))
        place.append(slice(first, first + length))
    inside[tuple(place)] = True
    return inside


class CopyPaste:
    """Bidirectional copy-paste (BCP): a box of a labelled patch in an unlabelled one, and the other way round.

    Patch i of ``labeled`` meets patch i of ``unlabeled``; every other pair is mixed in the other direction, so that a
    batch has both. The box is the same for the whole batch, its place drawn at random. The target is the label where
    the voxels are the labelled patch's, elsewhere the pseudo-label.

    Source: Bai et al., CVPR 2023, arXiv:2305.00673.

    Args:
        box: size of the box as a fraction of each axis, in (0, 1) (BCP: 2/3).
        pseudo_label: operators that make the teacher's probabilities the pseudo-label.
        guard: looks at the pseudo-labels; ``None`` does not.

    Raises:
        ValueError: when ``box`` is out of its range, or the streams have not as many patches.
    """

    def __init__(
        self, box: float = 2 / 3, pseudo_label: Sequence[PseudoLabelOperator] = (), guard: ClassGuard | None = None
    ) -> None:
        if not 0 < box < 1:
            raise ValueError(f"CopyPaste: box is a fraction of each axis between 0 and 1, both excluded, got {box}.")
        self.box = box
        self.operators = pseudo_label
        self.guard = guard

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Mix.

        Args:
            batch: see ``Mix``; ``image`` and ``label`` of ``labeled``, ``image`` and ``teacher_logits`` of
                ``unlabeled``.

        Returns:
            ``image`` ``(B, channels, H, W, D)``; ``soft_label`` ``(B, C + 1, H, W, D)``, target probabilities, all 0 at
            a voxel without target; ``pseudo`` ``(B, 1, H, W, D)``, whether it is a pseudo-label's, bool.
        """
        sizes = [len(batch[stream]["image"]) if stream in batch else 0 for stream in ("labeled", "unlabeled")]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"CopyPaste needs as many labelled as unlabelled patches, got {sizes[0]} and {sizes[1]}: set "
                "labeled_batch_size and unlabeled_batch_size to the same number."
            )
        labeled, unlabeled = batch["labeled"], batch["unlabeled"]
        pseudo_label, probability = make_pseudo_label(unlabeled["teacher_logits"], self.operators)
        label = one_hot(labeled["label"], probability.shape[1] - 1)
        if self.guard is not None:
            pseudo_label = self.guard(pseudo_label, probability, label)
        inside = draw_box(label[:, :1], self.box)
        odd = (torch.arange(len(label)) + torch.randint(2, ())) % 2 == 1
        pseudo = inside ^ odd.to(inside.device)[:, None, None, None, None]
        return {
            "image": torch.where(pseudo, unlabeled["image"], labeled["image"]),
            "soft_label": torch.where(pseudo, pseudo_label, label),
            "pseudo": pseudo,
        }


class LabeledCopyPaste(CopyPaste):
    """A box of a labelled patch in another labelled one: the first stage of BCP.

    The first half of the patches gets boxes of the second. Both regions are labelled; ``pseudo`` tells them apart.

    Source: Bai et al., CVPR 2023, arXiv:2305.00673.
    """

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Mix.

        Args:
            batch: see ``Mix``; ``image``, ``label`` and ``sdm``, which tells the number of classes, of ``labeled``.

        Returns:
            As ``CopyPaste``, of ``B // 2`` patches.
        """
        image, label = batch["labeled"]["image"], batch["labeled"]["label"]
        pairs = len(image) // 2
        if pairs == 0:
            raise ValueError("LabeledCopyPaste needs two labelled patches: set labeled_batch_size to at least 2.")
        soft_label = one_hot(label, batch["labeled"]["sdm"].shape[1])
        inside = draw_box(label[:pairs], self.box)
        return {
            "image": torch.where(inside, image[pairs : 2 * pairs], image[:pairs]),
            "soft_label": torch.where(inside, soft_label[pairs : 2 * pairs], soft_label[:pairs]),
            "pseudo": inside,
        }


class Relabel:
    """Unlabelled patches as they are, with the teacher's pseudo-label as their target.

    Source: Huo et al., CVPR 2021, arXiv:2006.13461 (ATSO).

    Args:
        pseudo_label: operators that make the teacher's probabilities the pseudo-label.
    """

    def __init__(self, pseudo_label: Sequence[PseudoLabelOperator] = ()) -> None:
        self.operators = pseudo_label

    def __call__(self, batch: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Label.

        Args:
            batch: see ``Mix``; ``image`` and ``teacher_logits`` of ``unlabeled``.

        Returns:
            As ``CopyPaste``; ``pseudo`` is true everywhere.
        """
        image = batch["unlabeled"]["image"]
        pseudo_label, _ = make_pseudo_label(batch["unlabeled"]["teacher_logits"], self.operators)
        return {"image": image, "soft_label": pseudo_label, "pseudo": torch.ones_like(image[:, :1], dtype=torch.bool)}
