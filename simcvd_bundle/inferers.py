"""Inferers: the student-teacher pass of training, and the two ways to segment a whole volume."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.networks import VNetOutput, fold_batch_norm

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(inputs: Tensor, precision: str) -> torch.autocast:
    """Autocast context of ``precision`` on the device of ``inputs``."""
    return torch.autocast(inputs.device.type, PRECISIONS[precision], enabled=precision != "float32")


def known_precision(precision: str) -> str:
    """Return ``precision`` if it is one of ``PRECISIONS``, else raise ``ValueError``."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {sorted(PRECISIONS)}, got {precision!r}.")
    return precision


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


class _Probabilities:
    """Predictor that turns a network's logits into probabilities, followed by the SDM channels if asked for."""

    def __init__(self, network: Callable[..., Any], with_sdm: bool, precision: str) -> None:
        self.network = network
        self.with_sdm = with_sdm
        self.precision = precision

    def __call__(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        images = convert_to_tensor(images, track_meta=False)
        with autocast(images, self.precision):
            if not self.with_sdm:
                logits: Tensor = self.network(images)
                return logits.float().softmax(1)
            output: VNetOutput = self.network(images, return_all=True)
        return torch.cat([output.logits.float().softmax(1), output.sdm.float()], 1)


class WindowInferer(SlidingWindowInferer):
    """The paper's sliding window: a stride in voxels, and softmax probabilities averaged where windows overlap.

    Args:
        roi_size: window in voxels.
        stride: step between windows in voxels, per axis.
        sw_batch_size: windows a forward pass.
        with_sdm: append the SDM channels to the probabilities.
        precision: one of ``PRECISIONS``.
    """

    def __init__(
        self, roi_size: Sequence[int], stride: Sequence[int], sw_batch_size: int = 4, with_sdm: bool = False,
        precision: str = "float32",
    ) -> None:  # fmt: skip
        if len(stride) != len(roi_size) or any(not 1 <= s <= r for s, r in zip(stride, roi_size, strict=True)):
            raise ValueError(f"window_stride must lie between 1 and the patch_size {roi_size} on each axis: {stride}.")
        # MONAI computes its step as int(roi * (1 - overlap)); half a voxel more survives the rounding
        overlap = [1 - (s + 0.5) / r if s < r else 0.0 for s, r in zip(stride, roi_size, strict=True)]
        super().__init__(roi_size, sw_batch_size, overlap)
        self.with_sdm = with_sdm
        self.precision = known_precision(precision)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities ``(B, C + 1, H, W, D)`` of ``(B, channels, H, W, D)``; with SDM ``2 C + 1`` channels."""
        result = super().__call__(inputs, _Probabilities(network, self.with_sdm, self.precision))
        return cast(Tensor, result)


class WholeSliceInferer(Inferer):
    """The fast mode: whole slices at once, and along the last axis as few windows of the patch's depth as possible.

    Training mirrors and rotates patches in the plane only, so the network learns where a patch begins and ends on the
    last axis and needs it as deep as it was: on the left atrium (88 slices, patches of 80) one pass over all slices
    cost 10 % Dice, two passes of 80 slices 1.5 % (``docs/performance.md``). Where windows overlap, by a quarter at
    least, probabilities are averaged. Batch norms are folded into the convolutions.

    A volume whose slices are too large is segmented in windows that overlap by a quarter, and the log says so.

    Args:
        window: the patch size of the training; smaller volumes are zero-padded to it, as in training.
        max_voxels: voxels of one pass at most; it takes 200 to 300 bytes a voxel in bfloat16, twice that in float32.
        with_sdm: append the SDM channels to the probabilities.
        precision: one of ``PRECISIONS``.
    """

    def __init__(
        self, window: Sequence[int], max_voxels: int = 2**23, with_sdm: bool = False, precision: str = "float32"
    ) -> None:
        super().__init__()
        self.window = list(window)
        self.max_voxels = max_voxels
        self.with_sdm = with_sdm
        self.precision = known_precision(precision)
        stride = [max(1, 3 * size // 4) for size in window]
        self.windows = WindowInferer(window, stride, with_sdm=with_sdm, precision=precision)
        self.folded: tuple[nn.Module, Any, nn.Module] | None = None

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """As ``WindowInferer``."""
        shape = inputs.shape[2:]
        padded = [max(size, least) for size, least in zip(shape, self.window, strict=True)]
        if padded[0] * padded[1] * self.window[2] > self.max_voxels:
            logger.warning(
                "Slices of %d x %d voxels are too large for one pass (fast_max_voxels is %d): "
                "segmenting in windows of %s.",
                *shape[:2], self.max_voxels, " x ".join(map(str, self.window)),
            )  # fmt: skip
            return self.windows(inputs, network)
        lows = [(large - size) // 2 for large, size in zip(padded, shape, strict=True)]
        pads = [(low, large - size - low) for low, large, size in zip(lows, padded, shape, strict=True)]
        images = F.pad(convert_to_tensor(inputs, track_meta=False), [n for pair in reversed(pads) for n in pair])
        predict = _Probabilities(self._fold(network), self.with_sdm, self.precision)
        window, rest = self.window[2], padded[2] - self.window[2]
        passes = 1 + math.ceil(rest / (0.75 * window))
        count = torch.zeros(padded[2], device=images.device)
        total: Tensor = torch.zeros(1, device=images.device)
        for number in range(passes):
            first = round(number * rest / max(passes - 1, 1))
            total = total + F.pad(predict(images[..., first : first + window]), (first, rest - first))
            count[first : first + window] += 1
        result = total / count
        for axis, (low, size) in enumerate(zip(lows, shape, strict=True), start=2):
            result = result.narrow(axis, low, size)
        return convert_to_dst_type(result, inputs)[0]  # the scan's geometry, as MONAI's windows keep it

    def _fold(self, network: Callable[..., Any]) -> Callable[..., Any]:
        """Folded copy of the network, made anew when its weights or the modes of its parts have changed."""
        network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        if not isinstance(network, nn.Module) or network.training:
            return network
        tensors = (*network.parameters(), *network.buffers())
        modes = [module.training for module in network.modules()]  # dropout may be on in an evaluated network
        state = [*((tensor.data_ptr(), tensor._version) for tensor in tensors), *modes]
        # the network itself is kept too: freed, its addresses could become another network's (a server's next weights)
        if self.folded is None or self.folded[0] is not network or self.folded[1] != state:
            self.folded = network, state, fold_batch_norm(network)
        return self.folded[2]


def make_inferer(
    mode: str,
    patch_size: Sequence[int],
    stride: Sequence[int],
    fast_max_voxels: int = 2**23,
    with_sdm: bool = False,
    precision: str = "float32",
) -> Inferer:
    """Inferer of ``inference_mode``: ``"window"`` (the paper's sliding window) or ``"fast"`` (whole slices).

    Args:
        mode: one of the two.
        patch_size: window in voxels.
        stride: step between the windows of mode ``"window"``.
        fast_max_voxels: voxels of one pass of mode ``"fast"`` at most.
        with_sdm: append the SDM channels to the probabilities.
        precision: one of ``PRECISIONS``.

    Raises:
        ValueError: for another mode.
    """
    if mode == "window":
        return WindowInferer(patch_size, stride, with_sdm=with_sdm, precision=precision)
    if mode == "fast":
        return WholeSliceInferer(patch_size, fast_max_voxels, with_sdm=with_sdm, precision=precision)
    raise ValueError(f"inference_mode must be 'window' or 'fast', got {mode!r}.")
