"""Every fast path gives the numbers of the plain one."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from monai.transforms.utils import distance_transform_edt
from torch import nn

from simcvd_bundle.data.transforms import SignedDistanceMap
from simcvd_bundle.networks.heads import SeparableAveragePool
from simcvd_bundle.networks.vnet import VNet
from simcvd_bundle.utils.precision import autocast


@pytest.mark.parametrize(("shape", "size"), [((112, 112), 128), ((96, 64), 16), ((7, 5), 11)])
def test_separable_pooling_is_adaptive_average_pooling(shape: tuple[int, int], size: int) -> None:
    slices = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SeparableAveragePool(size)(slices), nn.AdaptiveAvgPool2d(size)(slices))


def test_sdm_of_one_pass_is_that_of_two_passes() -> None:
    """A smooth random label of real size against MONAI's distance transform of each side."""
    noise = torch.randn(1, 1, 56, 56, 40, generator=torch.Generator().manual_seed(0))
    label = (nn.functional.avg_pool3d(noise, 9, 1, 4)[0] > 0.02).float()
    outside, inside = (torch.as_tensor(distance_transform_edt(side)) for side in (label == 0, label == 1))
    expected = outside / outside.max() - inside / inside.max()
    expected[inside == 1] = 0
    torch.testing.assert_close(SignedDistanceMap()(label).double(), expected.double(), atol=1e-6, rtol=0)


def passes(network: VNet, images: torch.Tensor, precision: str = "float32") -> dict[str, torch.Tensor]:
    """Outputs of a training pass, and the gradient of one convolution."""
    network.zero_grad()
    with autocast(images, precision):
        outputs = network(images, return_all=True)
    outputs.logits.float().square().mean().backward()
    return {
        "probability": outputs.logits.detach().float().softmax(1),
        "sdm": outputs.sdm.detach().float(),
        "gradient": network.decoder[0][0].conv.weight.grad,
    }


@pytest.mark.parametrize(
    ("change", "precision", "tolerance"),
    [
        (torch.contiguous_format, "float32", {"probability": 1e-4, "sdm": 1e-3, "gradient": 0.05}),
        (torch.channels_last_3d, "bfloat16", {"probability": 0.05, "sdm": 0.1}),
    ],
)
def test_layout_and_precision(change: torch.memory_format, precision: str, tolerance: dict[str, float]) -> None:
    """Root mean square of the difference to channels last in float32, relative to that of the values.

    Random weights and images are the hardest case: batch norm amplifies what rounding leaves of values near its mean.
    """
    torch.manual_seed(0)
    network = VNet(base_channels=8, dropout=0.0)
    images = torch.randn(2, 1, 48, 48, 32)
    other = copy.deepcopy(network).to(memory_format=change)
    reference, result = passes(network, images), passes(other, images, precision)
    errors = {key: float((result[key] - value).norm() / value.norm()) for key, value in reference.items()}
    assert all(errors[key] < bound for key, bound in tolerance.items()), errors


MEMORY = """
import resource, runpy, sys
if sys.argv[1] == "keep":
    assert runpy.run_path("simcvd_bundle/utils/memory.py")["keep_freed_memory"]()
for step in range(6):
    if step == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Python's bytes come from the same ``malloc`` as the tensors of torch, whose import takes seconds."""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = [
        int(subprocess.run([sys.executable, "-c", MEMORY, mode], cwd=ROOT, capture_output=True, check=True).stdout)
        for mode in ("stock", "keep")
    ]
    assert faults[1] < faults[0] / 8
