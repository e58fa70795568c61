"""The two ways to segment a whole volume."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import Any

import pytest
import torch
from monai.inferers import inferer
from probes import random
from torch import Tensor, nn

from simcvd_bundle.inference.windows import WholeSliceInferer, WindowInferer, make_inferer
from simcvd_bundle.networks.vnet import VNet, VNetOutput


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("mode", ["window", "fast"])
def test_unknown_precision_raises(mode: str, precision: str) -> None:
    message = f"precision must be one of auto, float32, bfloat16, float16, got {precision!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        make_inferer(mode, (4, 4, 4), (2, 2, 2), precision=precision)


# sliding window


class Places(nn.Module):
    """Remembers where each window begins, given an image whose voxels hold their own coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[tuple[int, ...]] = []
        self.sizes: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.starts += [tuple(int(v) for v in window[:, 0, 0, 0]) for window in x]
        self.sizes.add(tuple(x.shape[2:]))
        return torch.zeros(len(x), 2, *x.shape[2:])


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        # the paper's windows along each axis (the other axes as small as possible); 160 x 150 x 88 voxels make 48
        ((160, 4, 88), (112, 4, 80), (18, 4, 4)),
        ((4, 150, 80), (4, 112, 80), (4, 18, 4)),
        ((112, 4, 96), (96, 4, 96), (16, 4, 16)),
        # small ones: last window pushed back, stride 1, stride as long as the window, all axes at once
        ((11, 9, 7), (6, 4, 3), (4, 3, 2)),
        ((7, 6, 10), (4, 5, 5), (1, 1, 5)),
    ],
)
def test_windows_are_those_of_the_published_codes(
    size: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    """ceil((size - window) / stride) + 1 along each axis, the last one pushed back to the border."""
    image = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))[None]
    counts = [math.ceil((n - w) / s) + 1 for n, w, s in zip(size, window, stride, strict=True)]
    along = [
        [min(k * s, n - w) for k in range(count)]
        for n, w, s, count in zip(size, window, stride, counts, strict=True)
    ]  # fmt: skip
    network = Places()
    WindowInferer(window, stride)(image, network)
    assert sorted(network.starts) == sorted(product(*along))
    assert network.sizes == {window}


@pytest.mark.parametrize("window", [7, 80, 96, 112])
def test_any_stride_survives_the_detour_over_monais_overlap(window: int) -> None:
    """The second window begins one stride after the first, for every stride from 1 to the window's length."""
    size = 2 * window + 1
    image = torch.arange(float(size)).view(1, 1, size, 1, 1).repeat(1, 3, 1, 1, 1)
    for stride in range(1, window + 1):
        network = Places()
        WindowInferer((window, 1, 1), (stride, 1, 1), sw_batch_size=200)(image, network)
        assert sorted(start[0] for start in network.starts)[1] == stride


class Gain(nn.Module):
    """Logits (0, g x) with a gain g that depends on the first voxel of the window; the SDM is tanh(g x)."""

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        scaled = 3 * x[:, :, :1, :1, :1] * x
        logits = torch.cat([torch.zeros_like(x), scaled], 1)
        return VNetOutput(logits, scaled.tanh(), scaled) if return_all else logits


@pytest.mark.parametrize("with_sdm", [False, True])
def test_window_averages_probabilities(with_sdm: bool) -> None:
    """Against a loop over the windows; the mean of logits would give another result."""
    image = random(1, 1, 7, 5, 4)
    total, logits, count = torch.zeros(1, 3, 7, 5, 4), torch.zeros(1, 2, 7, 5, 4), torch.zeros(1, 1, 7, 5, 4)
    for x, y, z in product((0, 2, 3), (0, 1), (0,)):
        box = (..., slice(x, x + 4), slice(y, y + 4), slice(z, z + 4))
        output = Gain()(image[box], return_all=True)
        total[box] += torch.cat([output.logits.softmax(1), output.sdm], 1)
        logits[box] += output.logits
        count[box] += 1
    result = WindowInferer((4, 4, 4), (2, 2, 2), sw_batch_size=3, with_sdm=with_sdm)(image, Gain())
    torch.testing.assert_close(result, (total / count)[:, : 3 if with_sdm else 2])
    assert not torch.allclose(result[:, :2], (logits / count).softmax(1), atol=1e-2)


@pytest.mark.parametrize("with_sdm", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_window_is_the_whole_volume(with_sdm: bool, precision: str) -> None:
    torch.manual_seed(0)
    network = VNet(num_classes=2, base_channels=1).eval()
    image = random(2, 1, 16, 16, 16)
    with torch.no_grad():
        window = WindowInferer((16,) * 3, (8,) * 3, with_sdm=with_sdm, precision=precision)(image, network)
        whole = WholeSliceInferer((16,) * 3, with_sdm=with_sdm, precision=precision)(image, network)
        expected = network(image, return_all=True)
    assert whole.shape == (2, 5 if with_sdm else 3, 16, 16, 16)
    assert window.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(window, whole)
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[precision]
    torch.testing.assert_close(whole[:, :3], expected.logits.softmax(1), rtol=0, atol=tolerance)
    torch.testing.assert_close(whole[:, 3:], expected.sdm[:, : 2 * with_sdm], rtol=0, atol=tolerance)


def test_volume_smaller_than_the_window() -> None:
    image = random(1, 1, 3, 9, 2)
    result = WindowInferer((4, 4, 4), (2, 2, 2))(image, Gain())
    assert result.shape == (1, 2, 3, 9, 2)
    torch.testing.assert_close(result.sum(1), torch.ones(1, 3, 9, 2))


@pytest.mark.parametrize("stride", [(0, 2, 2), (2, 5, 2), (2, 2)])
def test_stride_out_of_range_raises(stride: tuple[int, ...]) -> None:
    message = f"between 1 and the patch_size (4, 4, 4) on each axis: {stride}"
    with pytest.raises(ValueError, match=re.escape(message)):
        WindowInferer((4, 4, 4), stride)
    with pytest.raises(ValueError, match="window_stride must lie"):
        make_inferer("window", (4, 4, 4), stride)


def test_make_inferer_passes_its_arguments_on() -> None:
    window = make_inferer("window", (4, 6, 8), (2, 3, 4), with_sdm=True, precision="bfloat16")
    fast = make_inferer("fast", (4, 6, 8), (2, 3, 4), with_sdm=True, precision="bfloat16")
    assert isinstance(window, WindowInferer)
    assert isinstance(fast, WholeSliceInferer)
    assert {(i.with_sdm, i.precision) for i in (window, fast)} == {(True, "bfloat16")}
    network = Places()
    image = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (6, 9, 12)), indexing="ij"))[None]
    make_inferer("window", (4, 6, 8), (2, 3, 4))(image, network)
    assert sorted(network.starts) == sorted(product((0, 2), (0, 3), (0, 4)))


@pytest.mark.parametrize(
    ("depth", "starts"),
    [(5, [0]), (8, [0]), (9, [0, 1]), (14, [0, 6]), (15, [0, 4, 7]), (20, [0, 6, 12])],
)
def test_fast_mode_takes_whole_slices_in_windows_of_the_depth_of_the_patch(depth: int, starts: list[int]) -> None:
    """Every window is as deep as the patch; the network sees the value 1 + its place, 0 where the volume is padded."""
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.cat([images * 0, images], 1)

    places = 1 + torch.arange(float(depth)).expand(1, 1, 6, 3, depth)
    result = make_inferer("fast", (4, 4, 8), (2, 2, 2))(places, network)
    assert [images.shape for images in seen] == [(1, 1, 6, 4, 8)] * len(starts)
    assert [int(images[0, 0, 0, 1].max()) - 8 for images in seen] == starts if depth >= 8 else True
    assert result.shape == (1, 2, 6, 3, depth)
    torch.testing.assert_close(result[:, 1:], places.sigmoid(), rtol=0, atol=1e-6)


def test_folded_network_follows_the_weights() -> None:
    """Same function as the network, folded once as long as the weights stay, and never while training."""
    torch.manual_seed(0)
    network = VNet(base_channels=2)
    network(random(2, 1, 16, 16, 16))
    inferer = make_inferer("fast", (16,) * 3, (8,) * 3, precision="float32")
    image = random(1, 1, 16, 16, 16)
    for _ in range(2):
        with torch.no_grad():
            expected = network.eval()(image).softmax(1)
            torch.testing.assert_close(inferer(image, network), expected)
            folded = inferer.folded[2]  # type: ignore[attr-defined]
            assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
            inferer(image, network)
            assert inferer.folded[2] is folded  # type: ignore[attr-defined]
            network.segmentation.weight.add_(0.5)
            network.encoder[0][0].adn.N.running_mean.add_(0.5)
    image = random(2, 1, 32, 32, 32)
    inferer = make_inferer("fast", (32,) * 3, (8,) * 3, precision="float32")
    with torch.no_grad():
        network.train()
        torch.manual_seed(1)
        training = inferer(image, network)
        torch.manual_seed(1)
        torch.testing.assert_close(training, network(image).softmax(1))


def test_too_large_a_volume_is_cut_into_windows_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network = VNet(base_channels=1).eval()
    image = random(1, 1, 32, 16, 16)
    with torch.no_grad(), caplog.at_level("WARNING"):
        whole = make_inferer("fast", (16,) * 3, (8,) * 3, fast_max_voxels=32 * 16 * 16)(image, network)
        assert not caplog.records
        cut = make_inferer("fast", (16,) * 3, (8,) * 3, fast_max_voxels=32 * 16 * 16 - 1)(image, network)
        windows = WindowInferer((16,) * 3, (12, 12, 12))(image, network)
    assert "Slices of 32 x 16 voxels are too large for one pass (fast_max_voxels is 8191)" in caplog.text
    assert "windows of 16 x 16 x 16" in caplog.text
    assert torch.equal(cut, windows)
    assert not torch.allclose(cut, whole)


def test_unknown_mode_raises() -> None:
    with pytest.raises(ValueError, match="inference_mode must be 'window' or 'fast', got 'slow'"):
        make_inferer("slow", (4, 4, 4), (2, 2, 2))


@pytest.mark.parametrize("depth", [3, 5, 8])
def test_thick_slices_in_both_modes(depth: int) -> None:
    """Shorter than the patch, as deep, deeper; what is one window is the network's own answer."""
    torch.manual_seed(0)
    network = VNet(
        base_channels=2, strides=[[2, 2, 1]] * 4, kernel_sizes=[[3, 3, 1]] * 2 + [[3, 3, 3]] * 3
    ).eval()  # fmt: skip
    image = torch.randn(1, 1, 32, 32, depth)
    with torch.no_grad():
        results = [
            make_inferer(mode, [32, 32, 5], [16, 16, 2], precision="float32")(image, network)
            for mode in ("window", "fast")
        ]
        for result in results:
            assert result.shape == (1, 2, 32, 32, depth)
            torch.testing.assert_close(result.sum(1), torch.ones(1, 32, 32, depth))
            if depth == 5:
                torch.testing.assert_close(result, network(image).softmax(1), atol=1e-5, rtol=1e-4)


# a GPU whose memory is full


class Full(Gain):
    """A network with room for the windows of ``size`` alone."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        if tuple(x.shape[2:]) != self.size:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(x, return_all)


def test_slices_that_do_not_fit_the_gpu_are_segmented_in_windows(caplog: pytest.LogCaptureFixture) -> None:
    image = random(1, 1, 9, 8, 4)
    result = WholeSliceInferer((4, 4, 4))(image, Full((4, 4, 4)))
    torch.testing.assert_close(result, WindowInferer((4, 4, 4), (3, 3, 3))(image, Gain()))
    assert "does not fit the GPU (CUDA out of memory.): segmenting in windows" in caplog.text
    with pytest.raises(torch.OutOfMemoryError):  # of a window, there is nothing smaller
        WholeSliceInferer((4, 4, 4))(image, Full((1, 1, 1)))


def test_sums_that_do_not_fit_the_gpu_are_made_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """By MONAI, as soon as the sums on the device of the scan fail."""
    devices: list[str] = []
    original = inferer.sliding_window_inference

    def stitch(inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        devices.append(str(args[9]))
        if len(devices) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(inputs, *args, **kwargs)

    monkeypatch.setattr(inferer, "sliding_window_inference", stitch)
    monkeypatch.setattr(Tensor, "is_cuda", True)
    image = random(1, 1, 7, 5, 4)
    result = WindowInferer((4, 4, 4), (2, 2, 2))(image, Gain())
    assert len(devices) == 2
    monkeypatch.undo()
    torch.testing.assert_close(result, WindowInferer((4, 4, 4), (2, 2, 2))(image, Gain()))
