"""The encoder is the way down of the V-Net; heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from simcvd_bundle.networks import MLPHead, VNet, VNetEncoder


def test_the_encoder_is_that_of_a_vnet_of_its_weights() -> None:
    """The head of the mean of the V-Net's bottleneck."""
    torch.manual_seed(0)
    encoder, network = VNetEncoder([3], base_channels=2), VNet(base_channels=2)
    loaded = network.load_state_dict(encoder.state_dict(), strict=False)
    assert loaded.unexpected_keys == ["head.0.weight", "head.0.bias"]
    assert {name.split(".")[0] for name in loaded.missing_keys} == {"ups", "decoder", "segmentation", "sdm"}
    x = torch.randn(2, 1, 18, 16, 32)
    expected = encoder.head(network.train()(x, return_all=True).features.mean((2, 3, 4)))
    torch.testing.assert_close(encoder.train()(x), expected)
    encoder.normalize = True
    torch.testing.assert_close(encoder(x), expected / expected.norm(dim=1, keepdim=True))


def test_the_head_is_float32_under_autocast() -> None:
    encoder = VNetEncoder([8, 3], base_channels=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.randn(2, 1, 16, 16, 16)).dtype == torch.float32


def test_the_encoder_takes_the_settings_of_the_vnet() -> None:
    settings = {"in_channels": 2, "base_channels": 2, "strides": [[2, 2, 1]] * 4, "kernel_sizes": [[3, 3, 1]] * 5}
    assert VNetEncoder([5], **settings)(torch.randn(1, 2, 16, 16, 3)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"expects an image of shape \(B, 2, H, W, D\), got \[1, 1, 16, 16, 3\]"):
        VNetEncoder([5], **settings)(torch.randn(1, 1, 16, 16, 3))
    with pytest.raises(ValueError, match="strides must be 4 lists of 3 numbers"):
        VNetEncoder([5], strides=[[2, 2, 3]] * 4)


def test_layers_of_the_head() -> None:
    """Batch norm and ReLU between layers, none behind the last."""
    kinds = [type(layer).__name__ for layer in MLPHead(8, [6, 6, 4])]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [type(layer).__name__ for layer in MLPHead(8, [3])] == ["Linear"]
    assert MLPHead(8, [6, 4])(torch.randn(5, 8)).shape == (5, 4)


@pytest.mark.parametrize("widths", [[], [4, 0], [4, 2.0]])
def test_widths_out_of_range(widths: list[Any]) -> None:
    with pytest.raises(ValueError, match="head_widths must be"):
        MLPHead(8, widths)
