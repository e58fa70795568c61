"""Outputs that serve training only: second decoders, deep outputs, a second network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from simcvd_bundle.networks import TwinNetwork, VNet, VNetOutput
from simcvd_bundle.networks.extra import EXTRA

KINDS: dict[str, tuple[type[VNet], dict[str, Any], int]] = {
    "decoders": (VNet, {"extra_decoders": ["trilinear", "nearest"]}, 2),
    "scales": (VNet, {"scales": 3}, 3),
    "twin": (TwinNetwork, {}, 1),
}


def make(kind: str, **settings: Any) -> VNet:
    torch.manual_seed(0)
    cls, own, _ = KINDS[kind]
    return cls(base_channels=2, num_classes=2, **own, **settings)


def image(*size: int) -> Tensor:
    return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_extra_logits_have_the_shape_of_the_logits_and_differ_from_them(kind: str) -> None:
    output = make(kind).eval()(image(17, 16, 20), return_all=True)
    assert output.extra_logits.shape == (2, KINDS[kind][2], 3, 17, 16, 20)
    for extra in output.extra_logits.unbind(1):
        assert (extra - output.logits).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_extra_tensors_the_network_is_a_plain_one(kind: str) -> None:
    """What inference loads, and it predicts the same."""
    network = make(kind).eval()
    plain = VNet(base_channels=2, num_classes=2).eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith(EXTRA)})
    assert torch.equal(plain(image(16, 16, 16)), network(image(16, 16, 16)))
    assert plain(image(16, 16, 16), return_all=True).extra_logits is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_extra_parameter_gets_a_gradient(kind: str) -> None:
    network = make(kind, dropout=0.0)
    output = network(image(32, 32, 32), return_all=True)
    output.extra_logits.square().sum().backward()
    for name, parameter in network.extra.named_parameters():
        assert (kind == "twin" and name.startswith("sdm")) or parameter.grad.abs().sum() > 0, name
    assert (network.encoder[0][0].conv.weight.grad is None) == (kind == "twin")


@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_call_scripts(kind: str) -> None:
    network = make(kind).eval()
    assert torch.equal(torch.jit.script(network)(image(16, 16, 16)), network(image(16, 16, 16)))


def test_decoders_differ_by_their_upsampling_and_scales_by_their_level() -> None:
    decoders = make("decoders").extra
    assert [decoder.ups[0][0].mode for decoder in decoders] == ["trilinear", "nearest"]
    assert [head.segmentation.in_channels for head in make("scales").extra] == [4, 8, 16]
    assert VNet(extra_decoders=["transposed"], base_channels=2).extra[0].ups[0].is_transposed


def test_the_second_network_has_a_start_of_its_own() -> None:
    network = make("twin")
    assert not torch.equal(network.encoder[0][0].conv.weight, network.extra.encoder[0][0].conv.weight)
    assert network.extra.state_dict().keys() == VNet(base_channels=2, num_classes=2).state_dict().keys()


def test_thick_slices() -> None:
    strides, kernels = [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]], [[3, 3, 1], *[[3, 3, 3]] * 4]
    for kind in KINDS:
        output = make(kind, strides=strides, kernel_sizes=kernels).eval()(image(32, 16, 6), return_all=True)
        assert output.extra_logits.shape[3:] == (32, 16, 6)


def test_split_gives_each_stream_its_volumes() -> None:
    output = VNetOutput(*(torch.arange(3.0).view(3, 1).expand(3, n + 1) for n in range(3)))
    first, second = output.split([1, 2])
    assert first.entries().keys() == {"logits", "sdm", "features"}
    assert (first.sdm.flatten().tolist(), second.logits.flatten().tolist()) == ([0, 0], [1, 2])
    extra = output._replace(extra_logits=torch.zeros(3, 5, 1)).split([1, 2])[1].extra_logits
    assert extra is not None
    assert extra.shape == (2, 5, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extra_decoders": ["bicubic"]}, "extra_decoders must be of transposed, trilinear, nearest, got 'bicubic'"),
        ({"scales": 4}, "scales must be 0 to 3.*got scales 4"),
        ({"scales": 1, "extra_decoders": ["nearest"]}, "and 0 with extra_decoders"),
    ],
)
def test_settings_out_of_range_raise(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VNet(**settings)


def test_a_twin_with_other_extra_outputs_raises() -> None:
    with pytest.raises(ValueError, match="so no extra_decoders and scales"):
        TwinNetwork(scales=2)
