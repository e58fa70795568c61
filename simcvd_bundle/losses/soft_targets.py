"""Distillation of a frozen teacher's predictions (SimCLRv2)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from simcvd_bundle.utils.checks import positive
from simcvd_bundle.utils.precision import in_float32


class SoftTargetLoss(nn.Module):
    """Mean of ``-sum_c q_c log p_c``, q of the teacher, p of the student, softmaxes at temperature T.

    The mean is over voxels where each has its logits (segmentation), over scans where each scan has (classification).

    Source: Chen et al., NeurIPS 2020, arXiv:2006.10029, equation (2), which sums over images; the mean is ours, as for
    the other terms.

    Args:
        temperature: T.

    Raises:
        ValueError: when ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = positive("SoftTargetLoss", "temperature", temperature)

    @in_float32
    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Loss of patches or scans, labelled or not.

        Args:
            pred: ``logits`` ``(B, C, ...)``, such as ``(B, C + 1, H, W, D)`` of patches and ``(B, C)`` of scans, and
                ``teacher_logits``, the same shape, detached here.
            target: not read.

        Returns:
            Scalar, float32; at least the entropy of the teacher's predictions.

        Raises:
            ValueError: when the shapes differ.
        """
        shapes = [list(pred[name].shape) for name in ("logits", "teacher_logits")]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"SoftTargetLoss: the logits of the student are {shapes[0]}, those of the teacher {shapes[1]}: "
                "teacher_def needs the classes of network_def."
            )
        q = (pred["teacher_logits"].detach() / self.temperature).softmax(1)
        return -(q * (pred["logits"] / self.temperature).log_softmax(1)).sum(1).mean()
