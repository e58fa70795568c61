"""The two ways to segment a whole volume: the paper's sliding window, and whole slices."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from monai.inferers import Inferer, SlidingWindowInfererAdapt
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.inference.folding import fold_batch_norm
from simcvd_bundle.inference.mirror import MirroredInferer
from simcvd_bundle.networks.vnet import VNetOutput
from simcvd_bundle.utils.precision import autocast, known_precision

logger = logging.getLogger(__name__)


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


class WindowInferer(SlidingWindowInfererAdapt):
    """The paper's sliding window: a stride in voxels, and softmax probabilities averaged where windows overlap.

    Sums over the scan move to main memory when they do not fit a GPU's (MONAI's ``SlidingWindowInfererAdapt``).

    Args:
        roi_size: window in voxels.
        stride: step between windows in voxels, per axis.
        sw_batch_size: windows a forward pass.
        with_sdm: append the SDM channels to the probabilities.
        precision: one of ``PRECISIONS`` or ``"auto"``.
    """

    def __init__(
        self, roi_size: Sequence[int], stride: Sequence[int], sw_batch_size: int = 4, with_sdm: bool = False,
        precision: str = "auto",
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
        return cast(Tensor, result).to(inputs.device)


class WholeSliceInferer(Inferer):
    """The fast mode: whole slices at once, and along the last axis as few windows of the patch's depth as possible.

    Training mirrors and rotates patches in the plane only, so the network learns where a patch begins and ends on the
    last axis and needs it as deep as it was: on the left atrium (88 slices, patches of 80) one pass over all slices
    cost 10 % Dice, two passes of 80 slices 1.5 % (``docs/performance.md``). Where windows overlap, by a quarter at
    least, probabilities are averaged. Batch norms are folded into the convolutions.

    A volume whose slices are too large, or do not fit a GPU, is segmented in windows that overlap by a quarter, and the
    log says so.

    Args:
        window: the patch size of the training; smaller volumes are zero-padded to it, as in training.
        max_voxels: voxels of one pass at most; it takes 200 to 300 bytes a voxel in bfloat16, twice that in float32.
        with_sdm: append the SDM channels to the probabilities.
        precision: one of ``PRECISIONS`` or ``"auto"``.
    """

    def __init__(
        self, window: Sequence[int], max_voxels: int = 2**23, with_sdm: bool = False, precision: str = "auto"
    ) -> None:
        super().__init__()
        self.window = list(window)
        self.max_voxels = max_voxels
        self.with_sdm = with_sdm
        self.precision = known_precision(precision)
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
            return self._in_windows(inputs, network)
        try:
            return self._in_slices(inputs, network, padded)
        except torch.OutOfMemoryError as error:
            logger.warning("A pass of whole slices does not fit the GPU (%s): segmenting in windows.", error)
        return self._in_windows(inputs, network)

    def _in_windows(self, inputs: Tensor, network: Callable[..., Any]) -> Tensor:
        stride = [max(1, 3 * size // 4) for size in self.window]
        return WindowInferer(self.window, stride, with_sdm=self.with_sdm, precision=self.precision)(inputs, network)

    def _in_slices(self, inputs: Tensor, network: Callable[..., Any], padded: Sequence[int]) -> Tensor:
        shape = inputs.shape[2:]
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
    precision: str = "auto",
    mirror: bool = False,
) -> Inferer:
    """Inferer of ``inference_mode``: ``"window"`` (the paper's sliding window) or ``"fast"`` (whole slices).

    Args:
        mode: one of the two.
        patch_size: window in voxels.
        stride: step between the windows of mode ``"window"``.
        fast_max_voxels: voxels of one pass of mode ``"fast"`` at most.
        with_sdm: append the SDM channels to the probabilities.
        precision: one of ``PRECISIONS`` or ``"auto"``.
        mirror: average with the passes over the mirrored volume, see ``MirroredInferer``.

    Raises:
        ValueError: for another mode.
    """
    inferer: Inferer
    if mode == "window":
        inferer = WindowInferer(patch_size, stride, with_sdm=with_sdm, precision=precision)
    elif mode == "fast":
        inferer = WholeSliceInferer(patch_size, fast_max_voxels, with_sdm=with_sdm, precision=precision)
    else:
        raise ValueError(f"inference_mode must be 'window' or 'fast', got {mode!r}.")
    return MirroredInferer(inferer) if mirror else inferer
