"""The V-Net and the projection head: sizes, shapes, padding, TorchScript, dropout and pooling."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle.inference.folding import fold_batch_norm
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet

PUBLISHED = "700a353cfb26eb47dde5cb94d6aae175e2aa3ee18e68c84b9d3f50744186c01e"
"""SHA-256 of the names and shapes of the tensors of the network as first published here."""


def small(in_channels: int = 1, num_classes: int = 1, dropout: float = 0.5, seed: int = 0) -> VNet:
    torch.manual_seed(seed)
    return VNet(in_channels, num_classes, base_channels=2, dropout=dropout)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def storages(module: nn.Module) -> set[int]:
    return {t.data_ptr() for t in module.state_dict().values()}


# V-Net


def test_default_network_is_that_of_the_compared_papers() -> None:
    """With its 1, 2, 3, 3, 3 convolutions a level down and 3, 3, 2, 1 up, the SDM branch included."""
    assert sum(p.numel() for p in VNet().parameters()) == 9_448_883


@pytest.mark.parametrize(
    ("in_channels", "num_classes", "size", "bottleneck"),
    [(1, 1, (16, 32, 16), (1, 2, 1)), (2, 3, (17, 20, 33), (2, 2, 3)), (1, 2, (5, 16, 1), (1, 1, 1))],
)
def test_shapes(in_channels: int, num_classes: int, size: tuple[int, ...], bottleneck: tuple[int, ...]) -> None:
    network = small(in_channels, num_classes).eval()
    image = random(2, in_channels, *size)
    with torch.no_grad():
        output = network(image, return_all=True)
        assert network(image).shape == (2, num_classes + 1, *size)
    assert output.logits.shape == (2, num_classes + 1, *size)
    assert output.sdm.shape == (2, num_classes, *size)
    assert output.features.shape == (2, 32, *bottleneck)


def test_plain_call_returns_the_logits_of_the_full_one() -> None:
    network, image = small().eval(), random(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(image, return_all=True).logits, rtol=0, atol=0)


def test_full_multiples_of_16_are_not_padded() -> None:
    network, image = small().eval(), random(1, 1, 16, 32, 16)
    with torch.no_grad():
        features, skips = network.encode(image)
        decoded = network.decode_levels(features, skips)[-1]
        output = network(image, return_all=True)
        torch.testing.assert_close(output.logits, network.segmentation(decoded), rtol=0, atol=0)
        torch.testing.assert_close(output.sdm, torch.tanh(network.sdm(decoded)), rtol=0, atol=0)
        torch.testing.assert_close(output.features, features, rtol=0, atol=0)


def test_other_sizes_are_padded_symmetrically_and_cropped_back() -> None:
    """17 -> 32 is 7 before and 8 after, 20 -> 32 is 6 and 6, 33 -> 48 is 7 and 8, all with zeros."""
    network, image = small(num_classes=2).eval(), random(1, 1, 17, 20, 33)
    padded = torch.zeros(1, 1, 32, 32, 48)
    padded[..., 7:24, 6:26, 7:40] = image
    with torch.no_grad():
        result, expected = network(image, return_all=True), network(padded, return_all=True)
    torch.testing.assert_close(result.logits, expected.logits[..., 7:24, 6:26, 7:40])
    torch.testing.assert_close(result.sdm, expected.sdm[..., 7:24, 6:26, 7:40])
    torch.testing.assert_close(result.features, expected.features)


def test_sdm_is_a_tanh_of_its_own_branch() -> None:
    network, image = small().eval(), random(1, 1, 16, 16, 16)
    with torch.no_grad():
        before = network(image, return_all=True)
        network.sdm.weight.mul_(1e3)
        after = network(image, return_all=True)
    assert before.sdm.abs().max() < 1
    assert after.sdm.abs().max() <= 1
    assert after.sdm.min() < -0.99 or after.sdm.max() > 0.99
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=0)


def test_torchscript_equals_eager() -> None:
    network = small().eval()
    scripted = torch.jit.script(network)
    for size in [(16, 16, 16), (17, 20, 5)]:
        with torch.no_grad():
            torch.testing.assert_close(scripted(random(1, 1, *size)), network(random(1, 1, *size)))


def test_dropout_acts_at_the_bottleneck_and_before_the_branches_in_training_only() -> None:
    network, image = small().train(), random(2, 1, 32, 16, 16)
    dropped: list[tuple[int, ...]] = []
    network.dropout.register_forward_hook(lambda module, args, output: dropped.append(tuple(output.shape)))
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = network(image, return_all=True), network(image, return_all=True)
        assert dropped[:2] == [(2, 32, 2, 1, 1), (2, 2, 32, 16, 16)]
        torch.testing.assert_close(first.features, second.features)  # taken before the dropout
        assert not torch.allclose(first.logits, second.logits)
        assert not torch.allclose(first.sdm, second.sdm)
        network.eval()
        torch.testing.assert_close(network(image), network(image), rtol=0, atol=0)


def test_dropout_probability_is_an_argument() -> None:
    network, image = small(dropout=0.0).train(), random(2, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(image))


def test_every_parameter_gets_a_gradient() -> None:
    network = small(dropout=0.0).train()
    output = network(random(2, 1, 16, 16, 16), return_all=True)
    (output.logits[:, 1].mean() + output.sdm.mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_skips_are_added_at_every_level() -> None:
    network = small().eval()
    parts: dict[str, Tensor] = {}

    def record(name: str) -> Callable[..., None]:
        return lambda module, args, output: parts.update({name: output, f"into {name}": args[0]})

    for i in range(4):
        for stage in ("encoder", "ups", "decoder"):
            getattr(network, stage)[i].register_forward_hook(record(f"{stage} {i}"))
    with torch.no_grad():
        network(random(1, 1, 16, 16, 16))
    for i in range(4):
        torch.testing.assert_close(parts[f"into decoder {i}"], parts[f"ups {i}"] + parts[f"encoder {3 - i}"])


def test_deep_copy_shares_no_storage_and_keeps_the_memory_layout() -> None:
    network = small()
    other = copy.deepcopy(network)
    assert not storages(network) & storages(other)
    assert len(storages(network)) == len(network.state_dict())
    assert network.encoder[1][0].conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert other.encoder[1][0].conv.weight.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(("size", "cuts"), [(16, 0), (18, 1)])
def test_outputs_are_cut_last_and_only_where_the_input_was_padded(size: int, cuts: int) -> None:
    """The gradient of a cut is a contiguous copy, which slows the channels-last layers behind it."""
    output = small()(random(2, 1, 16, 16, size), return_all=True)
    for part in (output.logits, output.sdm):
        node, names = part.grad_fn, []
        while node is not None and "BatchNorm" not in node.name():
            names.append(node.name())
            node = node.next_functions[0][0]
        convolution = next(i for i, name in enumerate(names) if "Convolution" in name)
        assert sum("Slice" in name for name in names[:convolution]) == cuts
        assert not any("Slice" in name for name in names[convolution:]), names


@pytest.mark.parametrize("values", [(0, 1, 16), (1, 0, 16), (1, 1, 0)])
def test_vnet_arguments_out_of_range_raise(values: tuple[int, int, int]) -> None:
    message = f"at least 1, got {values[0]}, {values[1]} and {values[2]}."
    with pytest.raises(ValueError, match=re.escape(message)):
        VNet(*values)


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 2, 16, 16, 16)])
def test_vnet_names_a_bad_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"of shape (B, 1, H, W, D), got {list(shape)}.")):
        small()(torch.zeros(shape))


# projection head


def small_head(dropout: float = 0.1, pooling: str = "average", pool_size: int = 4) -> ProjectionHead:
    torch.manual_seed(0)
    return ProjectionHead(dropout, pool_size, pooling, widths=(16, 16, 128))


def test_default_head_is_a_mlp_of_three_layers_on_128_pixels_squared() -> None:
    head = ProjectionHead()
    linear = [(m.in_features, m.out_features) for m in head.mlp if isinstance(m, nn.Linear)]
    assert linear == [(128 * 128, 256), (256, 256), (256, 128)]
    assert [type(m) for m in head.mlp] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert head.dropout.p == 0.1


@pytest.mark.parametrize("shape", [(5, 1, 112, 112), (3, 2, 4, 4), (4, 1, 7, 30), (2, 3, 2, 3)])
def test_head_makes_unit_vectors_of_any_slice(shape: tuple[int, ...]) -> None:
    vectors = small_head()(random(*shape))
    assert vectors.shape == (shape[0], 128)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(shape[0]))
    assert (vectors < 0).any()  # no ReLU after the last layer
    assert vectors.std(0).max() > 1e-3  # and not one vector for all slices


def test_average_and_maximum_pooling() -> None:
    """Each of the 4 x 4 cells of an 8 x 8 slice is a 2 x 2 block."""
    slices = random(3, 1, 8, 8)
    blocks = slices.view(3, 1, 4, 2, 4, 2)
    average, maximum = small_head().eval(), small_head(pooling="max").eval()
    by_hand = {
        average: blocks.mean(dim=(3, 5)),
        maximum: blocks.amax(dim=(3, 5)),
    }
    with torch.no_grad():
        for head, pooled in by_hand.items():
            torch.testing.assert_close(head(slices), F.normalize(head.mlp(pooled.flatten(1)), dim=1))
        assert not torch.allclose(average(slices), maximum(slices), atol=1e-3)


def test_classes_are_averaged_before_the_normalisation() -> None:
    head = small_head().eval()
    slices = random(3, 2, 4, 4) * torch.tensor([1.0, 9.0]).view(1, 2, 1, 1)
    with torch.no_grad():
        outputs = [head.mlp(slices[:, c].flatten(1)) for c in range(2)]
        torch.testing.assert_close(head(slices), F.normalize((outputs[0] + outputs[1]) / 2, dim=1))
        late = F.normalize(sum(F.normalize(o, dim=1) for o in outputs), dim=1)
        assert not torch.allclose(head(slices), late, atol=1e-3)


def test_two_heads_differ_by_their_dropout_masks() -> None:
    head = small_head().train()
    other = copy.deepcopy(head)
    slices = random(3, 1, 8, 8)
    torch.manual_seed(0)
    assert not torch.allclose(head(slices), other(slices), atol=1e-4)
    torch.testing.assert_close(head.eval()(slices), other.eval()(slices), rtol=0, atol=0)
    untouched = small_head(dropout=0.0).train()
    torch.testing.assert_close(untouched(slices), untouched(slices), rtol=0, atol=0)


def test_head_drops_pixels_before_the_pooling_as_alpha_dropout_does() -> None:
    """Of an all-zero slice plain dropout would leave zeros; alpha dropout gives dropped pixels a value of their own."""
    head = small_head().train()
    pooled: list[Tensor] = []
    head.pool.register_forward_pre_hook(lambda module, args: pooled.append(args[0]))
    torch.manual_seed(0)
    head(torch.zeros(4, 1, 50, 50))
    values, counts = pooled[0].unique(return_counts=True)
    assert len(values) == 2
    assert float(counts.min()) / 10_000 == pytest.approx(0.1, abs=0.02)


def test_unknown_pooling_raises() -> None:
    with pytest.raises(ValueError, match=re.escape("pooling must be one of ['average', 'max'], got 'median'.")):
        ProjectionHead(pooling="median")


# strides and kernels by axis

THICK = {
    "strides": [[2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 1]],
    "kernel_sizes": [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
}


def thick(seed: int = 0) -> VNet:
    torch.manual_seed(seed)
    return VNet(2, 3, base_channels=2, **THICK)


def test_defaults_are_the_published_network_name_by_name() -> None:
    """Weights of earlier versions fit: names and shapes are those of the network without these arguments."""
    tensors = "".join(f"{name} {tuple(tensor.shape)}\n" for name, tensor in VNet().state_dict().items())
    assert hashlib.sha256(tensors.encode()).hexdigest() == PUBLISHED
    explicit = VNet(strides=[[2, 2, 2]] * 4, kernel_sizes=[[3, 3, 3]] * 5).state_dict()
    assert {name: t.shape for name, t in explicit.items()} == {n: t.shape for n, t in VNet().state_dict().items()}


def test_thick_slices_are_padded_by_axis() -> None:
    """33 -> 48 along the halved axes, 5 -> 6 along the slices, which are halved once."""
    network, image = thick().eval(), random(1, 2, 33, 20, 5)
    padded = torch.zeros(1, 2, 48, 32, 6)
    padded[..., 7:40, 6:26, 0:5] = image
    with torch.no_grad():
        result, expected = network(image, return_all=True), network(padded, return_all=True)
    assert result.logits.shape == (1, 4, 33, 20, 5)
    assert result.sdm.shape == (1, 3, 33, 20, 5)
    assert result.features.shape == (1, 32, 3, 2, 3)
    torch.testing.assert_close(result.logits, expected.logits[..., 7:40, 6:26, 0:5])


def test_first_levels_do_not_mix_thick_slices() -> None:
    network = thick().eval()
    image = random(1, 2, 16, 16, 6)
    changed = image.clone()
    changed[..., 3] += 1
    with torch.no_grad():
        first, second = (network.encoder[1](network.downs[0](network.encoder[0](x))) for x in (image, changed))
    differs = (first != second).flatten(0, 3).any(0)
    assert differs.tolist() == [False, False, False, True, False, False]


def test_thick_network_trains_scripts_and_folds() -> None:
    network, image = thick().train(), random(2, 2, 32, 16, 5)
    output = network(image, return_all=True)
    (output.logits[:, 1].mean() + output.sdm.mean()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    network.eval()
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(torch.jit.script(network)(image), expected)
        torch.testing.assert_close(fold_batch_norm(network)(image), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": [[2, 2, 2]] * 3}, "strides must be 4 lists of 3 numbers, each 1 or 2, got [[2, 2, 2], [2, 2, 2]"),
        ({"strides": [[2, 2, 3]] * 4}, "strides must be 4 lists of 3 numbers, each 1 or 2"),
        ({"kernel_sizes": [[3, 3]] * 5}, "kernel_sizes must be 5 lists of 3 numbers, each 1 or 3, got [[3, 3]"),
    ],
)
def test_strides_and_kernels_out_of_range_raise(arguments: dict[str, list[list[int]]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        VNet(base_channels=2, **arguments)
