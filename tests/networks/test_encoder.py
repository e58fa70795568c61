"""The encoder is the way down of the V-Net; heads."""

from __future__ import annotations

import pytest
import torch

from simcvd_bundle.networks import EmbeddingHead, MLPHead, VNet, VNetEncoder


def test_the_encoder_is_the_mean_of_the_bottleneck_of_a_vnet_of_its_weights() -> None:
    torch.manual_seed(0)
    encoder, network = VNetEncoder(base_channels=2), VNet(base_channels=2)
    missing = network.load_state_dict(encoder.state_dict(), strict=False)
    assert missing.unexpected_keys == []
    assert {name.split(".")[0] for name in missing.missing_keys} == {"ups", "decoder", "segmentation", "sdm"}
    x = torch.randn(2, 1, 18, 16, 32)
    expected = network.train()(x, return_all=True).features.mean((2, 3, 4))
    torch.testing.assert_close(encoder.train()(x), expected)
    assert expected.shape == (2, encoder.num_features)


def test_the_encoder_takes_the_settings_of_the_vnet() -> None:
    settings = {"in_channels": 2, "base_channels": 2, "strides": [[2, 2, 1]] * 4, "kernel_sizes": [[3, 3, 1]] * 5}
    assert VNetEncoder(**settings)(torch.randn(1, 2, 16, 16, 3)).shape == (1, 32)
    with pytest.raises(ValueError, match=r"expects an image of shape \(B, 2, H, W, D\), got \[1, 1, 16, 16, 3\]"):
        VNetEncoder(**settings)(torch.randn(1, 1, 16, 16, 3))
    with pytest.raises(ValueError, match="strides must be 4 lists of 3 numbers"):
        VNetEncoder(strides=[[2, 2, 3]] * 4)


def test_layers_of_the_head() -> None:
    """Batch norm and ReLU between layers, none behind the last."""
    kinds = [type(layer).__name__ for layer in MLPHead(8, [6, 6, 4])]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [type(layer).__name__ for layer in MLPHead(8, [3])] == ["Linear"]
    assert MLPHead(8, [6, 4])(torch.randn(5, 8)).shape == (5, 4)


def test_embeddings_have_length_one() -> None:
    torch.testing.assert_close(EmbeddingHead(8, [6, 4])(torch.randn(5, 8)).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("widths", [[], [4, 0]])
def test_widths_out_of_range(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="MLPHead: widths must be"):
        MLPHead(8, widths)
