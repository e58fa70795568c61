"""Pseudo-labels: what the teacher's probabilities are made into before a student learns from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from simcvd_bundle.data.foreground import pieces_of
from simcvd_bundle.utils.checks import positive

logger = logging.getLogger(__name__)

PseudoLabelOperator = Callable[[Tensor], Tensor]
"""Takes and returns target probabilities ``(B, C + 1, H, W, D)``, background first: they add up to 1 at every voxel, or
to 0 where there is no target. One operator may follow another."""


def one_hot(classes: Tensor, num_classes: int) -> Tensor:
    """Class indices ``(B, 1, H, W, D)`` as float32 probabilities ``(B, num_classes + 1, H, W, D)``."""
    return F.one_hot(classes[:, 0].long(), num_classes + 1).movedim(-1, 1).float()


class ArgMax:
    """The most probable class at every voxel, with certainty."""

    def __call__(self, probability: Tensor) -> Tensor:
        """Apply, see ``PseudoLabelOperator``."""
        hard = one_hot(probability.argmax(1, keepdim=True), probability.shape[1] - 1)
        return hard * (probability.sum(1, keepdim=True) > 0)


class Confidence:
    """No target where the largest probability is below a threshold (FixMatch, Sohn et al., NeurIPS 2020).

    Args:
        threshold: in [0, 1].

    Raises:
        ValueError: when it is out of its range.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"Confidence: threshold must lie in [0, 1], got {threshold}.")
        self.threshold = threshold

    def __call__(self, probability: Tensor) -> Tensor:
        """Apply, see ``PseudoLabelOperator``."""
        return probability * (probability.amax(1, keepdim=True) >= self.threshold)


class Sharpen:
    """``p^(1 / T)``, normalised (MixMatch, Berthelot et al., NeurIPS 2019; MC-Net, Wu et al., MICCAI 2021, has T 0.1).

    Args:
        temperature: T, above 0; 1 changes nothing, towards 0 it is the arg max.

    Raises:
        ValueError: when it is not positive.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = positive("Sharpen", "temperature", temperature)

    def __call__(self, probability: Tensor) -> Tensor:
        """Apply, see ``PseudoLabelOperator``."""
        return (probability.log() / self.temperature).softmax(1).nan_to_num(0.0)  # NaN: no target, all are 0


class LargestComponent:
    """Of classes in each patch keep the largest piece, make the others background (BCP, Bai et al., CVPR 2023).

    Pieces touch by faces, edges or corners. For classes that are one piece each, such as the parts of a heart: kidneys
    and scattered lesions would lose all but one. scipy finds the pieces: MONAI's ``KeepLargestConnectedComponent``
    needs scikit-image, and of a one-hot mask it leaves voxels of no class at all.

    Args:
        classes: indices of the classes, such as ``DiskCacheDataset.one_piece_classes()``, which the log names; ``None``
            takes all.
    """

    def __init__(self, classes: Sequence[int] | None = None) -> None:
        self.classes = None if classes is None else set(classes)
        if classes is not None:
            names = ", ".join(map(str, classes)) or "none"
            logger.info("Classes of one piece, the largest of which the pseudo-labels keep: %s", names)

    def __call__(self, probability: Tensor) -> Tensor:
        """Apply, see ``PseudoLabelOperator``."""
        classes = probability.argmax(1).cpu().numpy()
        chosen = set(range(1, probability.shape[1])) if self.classes is None else self.classes
        kept = ~np.isin(classes, list(chosen))
        for patch, result in zip(classes, kept, strict=True):
            for index in chosen.intersection(np.unique(patch).tolist()):
                pieces, sizes = pieces_of(patch == index)
                result |= pieces == sizes.argmax() + 1
        keep = torch.from_numpy(kept[:, None]).to(probability.device)
        background = torch.zeros_like(probability)
        background[:, :1] = probability.sum(1, keepdim=True)
        return torch.where(keep, probability, background)


class ClassGuard:
    """Keep a class from dying out of the pseudo-labels, and say so in the log.

    A student that is told "background" wherever the teacher has forgotten a class forgets it too. When the
    pseudo-labels of a step hold less than ``fraction`` of the voxels that the labelled patches of this step have of a
    class, that class's most probable voxels lose their pseudo-label, as many as are missing: nothing tells the student
    there that they are something else, and the labels bring the class back. A patch that rightly has none of the class
    loses but that share of its voxels. The answer depends on nothing but the step; only the log counts steps.

    Args:
        class_names: name of each class, from ``"1"`` on.
        fraction: of the labelled voxels, in [0, 1]; 0 is no guard.
        patience: steps in a row after which the log names the class.

    Raises:
        ValueError: when ``fraction`` is out of its range, or ``patience`` below 1.
    """

    def __init__(self, class_names: Mapping[str, str], fraction: float = 0.1, patience: int = 100) -> None:
        if not 0 <= fraction <= 1 or patience < 1:
            raise ValueError(
                f"ClassGuard: fraction must lie in [0, 1] and patience be at least 1, got {fraction} and {patience}."
            )
        self.class_names = class_names
        self.fraction = fraction
        self.patience = patience
        self.missing = dict.fromkeys(class_names, 0)

    def __call__(self, pseudo_label: Tensor, probability: Tensor, label: Tensor) -> Tensor:
        """Take targets away where a class is scarce.

        Args:
            pseudo_label: ``(B, C + 1, H, W, D)``.
            probability: what it was made of, the same shape.
            label: the labels of as many patches, one-hot, the same shape.

        Returns:
            ``pseudo_label``, 0 in all channels where it was taken away.
        """
        counts = torch.stack([part.sum((0, 2, 3, 4)) for part in (pseudo_label, label)]).long().tolist()
        keep = torch.ones_like(pseudo_label[:, 0], dtype=torch.bool)
        for name, found, wanted in zip(self.class_names, *(count[1:] for count in counts), strict=True):
            if wanted == 0:  # these patches say nothing of the class
                continue
            scarce = found < self.fraction * wanted
            self._log(name, scarce)
            if scarce:
                index = int(name)
                chance = probability[:, index].masked_fill(pseudo_label[:, index] > 0, -1.0)
                keep &= chance < chance.flatten().topk(wanted - found, sorted=False).values.min()
        return pseudo_label * keep[:, None]

    def _log(self, name: str, scarce: bool) -> None:
        if not scarce and self.missing[name] >= self.patience:
            logger.info("The class %s (%s) is back in the pseudo-labels.", name, self.class_names[name])
        self.missing[name] = self.missing[name] + 1 if scarce else 0
        if self.missing[name] == self.patience:
            logger.warning(
                "The class %s (%s) has vanished from the pseudo-labels: for %d steps in a row they held less than "
                "%g %% of its voxels in the labelled patches. Its most probable voxels get no pseudo-label until it is "
                "back. If it stays away, label a scan that shows it, or lengthen pretrain_iterations.",
                name, self.class_names[name], self.patience, 100 * self.fraction,
            )  # fmt: skip


def make_pseudo_label(logits: Tensor, operators: Sequence[PseudoLabelOperator]) -> tuple[Tensor, Tensor]:
    """Pseudo-label of the teacher's logits and the probabilities that it was made of, float32, without gradient."""
    probability = result = logits.detach().float().softmax(1)
    for operator in operators:
        result = operator(result)
    return result, probability
