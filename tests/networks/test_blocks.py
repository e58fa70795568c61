"""Convolutions of the V-Net on maps of every size."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from simcvd_bundle.networks.blocks import RELU, SameConvolution


def gradients(network: nn.Module, image: Tensor, precision: torch.dtype = torch.float32) -> list[Tensor]:
    """Output, and gradients of image and parameters, for a fixed gradient of the output."""
    network.zero_grad()
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        output = network(image)
    output.float().backward(torch.linspace(-1, 1, output.numel()).reshape(output.shape))
    assert image.grad is not None
    return [output.detach(), image.grad, *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [(3, 3, 3), (1, 3, 3), (3, 3, 1)])
def test_it_is_the_convolution_of_monai(depth: int, kernel_size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    own = SameConvolution(2, 4, kernel_size)
    other = Convolution(3, 2, 4, kernel_size=kernel_size, act=RELU, norm="BATCH")
    other.load_state_dict(own.state_dict())
    image = torch.randn(2, 2, depth, 4, 5)
    for found, expected in zip(gradients(own, image), gradients(other, image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(torch.jit.script(own.eval())(image), own(image))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gradients_in_bfloat16_are_those_of_float32(depth: int) -> None:
    """Some processors gave NaN for a depth of 2."""
    torch.manual_seed(0)
    network = SameConvolution(32, 32).conv
    padded = SameConvolution(32, 32)
    padded.conv, padded.adn = network, nn.Identity()
    image = torch.randn(4, 32, depth, 4, 4)
    junk = [torch.full((2**size,), float("nan")) for size in range(4, 20)]
    del junk  # memory that a wrong kernel would read
    for found, expected in zip(gradients(padded, image, torch.bfloat16), gradients(padded, image), strict=True):
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()
