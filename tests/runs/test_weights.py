"""Weights files: round trips, errors that name the file, and exports that destroy nothing."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simcvd_bundle.networks import TwinNetwork, VNet, VNetEncoder
from simcvd_bundle.runs.weights import export_weights, load_pretrained, load_weights


def network(seed: int = 0, width: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(2, width, 3), nn.BatchNorm3d(width)).to(memory_format=torch.channels_last_3d)


def same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[name], state[name]) for name in own)


def read(path: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(path, weights_only=True)
    return content


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# loading


@pytest.mark.parametrize(
    "wrap", [lambda state: state, lambda state: {"model": state, "epoch": 3}], ids=["flat", "model"]
)
def test_round_trip(tmp_path: Path, caplog: pytest.LogCaptureFixture, wrap: Any) -> None:
    """Batch-norm statistics included."""
    source, target = network(0), network(1)
    source[1].running_mean.fill_(5.0)  # type: ignore[index, union-attr]
    torch.save(wrap(source.state_dict()), tmp_path / "model.pt")
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.runs.weights"):
        load_weights(target, str(tmp_path / "model.pt"))
    assert same(target, source.state_dict())
    assert caplog.messages == [f"Loaded weights {tmp_path / 'model.pt'}"]


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "model.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(f"No weights {path}: train first, or set weights to")):
            load_weights(network(), str(path))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "pointer"])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"The weights {path} cannot be read")):
        load_weights(network(), str(path))


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=re.escape(f"The weights {path} cannot be read")):
        load_weights(network(), str(path))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(network(), path)  # a pickled module
    with pytest.raises(ValueError, match=re.escape(f"The weights {path} cannot be read")):
        load_weights(network(), str(path))


@pytest.mark.parametrize(
    "content",
    [network(width=4).state_dict(), {"other": torch.zeros(1)}, {"model": torch.zeros(1)}, torch.zeros(2), [1, 2]],
    ids=["width", "names", "model", "tensor", "list"],
)
def test_other_network_is_named_and_nothing_is_loaded(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    target = network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(f"The weights {path} do not fit the network: check network_def")):
        load_weights(target, str(path))
    assert same(target, before)


def test_partly_fitting_file_loads_nothing(tmp_path: Path) -> None:
    """All or nothing: the convolution would fit, the batch norm does not."""
    path, target = tmp_path / "model.pt", network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    torch.save({name: t for name, t in network(1).state_dict().items() if name.startswith("0.")}, path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_weights(target, str(path))
    assert same(target, before)


# writing


def test_export_writes_the_run_and_the_bundle(tmp_path: Path) -> None:
    """Flat contiguous tensors that load without trusting the file; the network itself is left alone."""
    source = network()
    path = export_weights(source, str(tmp_path / "run"), str(tmp_path / "models"))
    assert path == str(tmp_path / "models" / "model.pt")
    assert files(tmp_path) == {"run/model.pt", "models/model.pt"}
    for file in ("run/model.pt", "models/model.pt"):
        content = read(tmp_path / file)
        assert same(source, content)
        assert all(t.is_contiguous() and not t.requires_grad for t in content.values())
    assert source[0].weight.is_contiguous(memory_format=torch.channels_last_3d)  # type: ignore[index, arg-type]


def test_what_serves_training_only_is_neither_exported_nor_needed(tmp_path: Path) -> None:
    """A plain network loads the weights, and so does one with other extra outputs, which keep what they have."""
    source, plain, other = VNet(base_channels=2, scales=3), VNet(base_channels=2), TwinNetwork(base_channels=2)
    path = export_weights(source, str(tmp_path / "run"), str(tmp_path / "models"))
    assert read(Path(path)).keys() == plain.state_dict().keys()
    extra = other.extra.segmentation.weight.clone()
    for target in (plain, other, source):
        load_weights(target, path)
        assert torch.equal(target.segmentation.weight, source.segmentation.weight)
    assert torch.equal(other.extra.segmentation.weight, extra)
    torch.save({"model": source.state_dict()}, tmp_path / "whole.pt")
    load_weights(plain, str(tmp_path / "whole.pt"))


def test_export_keeps_the_former_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, models = tmp_path / "run", tmp_path / "models"
    export_weights(network(0), str(run), str(models))
    former = (models / "model.pt").read_bytes()
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.runs.weights"):
        export_weights(network(1), str(run), str(models))
    (kept,) = (models / "replaced").iterdir()
    assert re.fullmatch(r"model_[0-9a-f]{12}\.pt", kept.name)
    assert kept.read_bytes() == former
    assert caplog.messages == [f"Kept the former weights as {kept}"]
    assert same(network(1), read(models / "model.pt"))
    assert same(network(1), read(run / "model.pt"))
    assert files(tmp_path) == {"run/model.pt", "models/model.pt", f"models/replaced/{kept.name}"}


def test_repeated_export_adds_no_second_copy(tmp_path: Path) -> None:
    """Three different exports, then the first again twice: one copy of each content."""
    for seed in (0, 1, 2, 0, 0, 1):
        export_weights(network(seed), str(tmp_path / "run"), str(tmp_path / "models"))
    kept = sorted((tmp_path / "models" / "replaced").iterdir())
    assert len(kept) == 3
    assert all(sum(same(network(seed), read(file)) for file in kept) == 1 for seed in (0, 1, 2))
    assert len(files(tmp_path)) == 2 + 3


def test_a_run_with_weights_of_its_own_has_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        assert Path(export_weights(network(seed), str(tmp_path / "run"), "run")) == tmp_path / "run" / "model.pt"
    assert files(tmp_path) == {"run/model.pt"}
    assert same(network(1), read(tmp_path / "run" / "model.pt"))


# pretrained


@pytest.mark.parametrize("wrapped", [False, True], ids=["model.pt", "checkpoint"])
def test_pretrained_loads_what_fits_and_names_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrapped: bool
) -> None:
    source, target, head, other_head = VNet(1, 1, 2), VNet(1, 3, 2), network(0), network(1)
    before = target.segmentation.weight.clone()
    state = source.state_dict()
    whole = nn.ModuleDict({"network": source, "head": head})
    torch.save({"student": whole.state_dict()} if wrapped else state, tmp_path / "a.pt")
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.runs.weights"):
        load_pretrained(nn.ModuleDict({"network": target, "head": other_head}), str(tmp_path / "a.pt"))
    own = target.state_dict()
    branches = {"segmentation.weight", "segmentation.bias", "sdm.weight", "sdm.bias"}
    assert {
        name for name in own if not (own[name].shape == state[name].shape and own[name].equal(state[name]))
    } == branches
    assert torch.equal(target.segmentation.weight, before)
    left = caplog.messages[0].partition("left out: ")[2].split(", ")
    heads = set() if wrapped else {f"head.{name.split('.')[0]}" for name in head.state_dict()}
    assert set(left) == {"network.segmentation", "network.sdm"} | heads
    assert len(left) == 2 + len(heads)
    assert same(other_head, head.state_dict()) == wrapped


@pytest.mark.parametrize("content", [{"other": torch.zeros(1)}, {"student": {"head.0": torch.zeros(1)}}, [1]])
def test_pretrained_of_another_network_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"Nothing in .*a\.pt fits the network"):
        load_pretrained(nn.ModuleDict({"network": VNet(1, 1, 2)}), str(tmp_path / "a.pt"))


def test_a_pretrained_encoder_fills_the_way_down_of_a_vnet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = VNetEncoder([4, 3], base_channels=2), VNet(1, 1, 2)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    with caplog.at_level(logging.INFO, logger="simcvd_bundle.runs.weights"):
        load_pretrained(nn.ModuleDict({"network": target}), str(tmp_path / "a.pt"))
    own = target.state_dict()
    shared = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head")}
    assert all(torch.equal(own[name], tensor) for name, tensor in shared.items())
    loaded, left = re.split("; left out: ", caplog.messages[0])
    downs, encoder = (sum(name.startswith(part) for name in source.state_dict()) for part in ("downs", "encoder"))
    assert loaded.endswith(f"network.downs ({downs}), network.encoder ({encoder})")
    assert set(left.split(", ")) == {f"network.{part}" for part in ("decoder", "head", "segmentation", "sdm", "ups")}


@pytest.mark.parametrize(
    "settings",
    [
        {"base_channels": 4},
        {"base_channels": 2, "in_channels": 2},
        {"base_channels": 2, "strides": [[2, 2, 1]] + [[2, 2, 2]] * 3},
        {"base_channels": 2, "kernel_sizes": [[3, 3, 1]] + [[3, 3, 3]] * 4},
    ],
)
def test_an_encoder_of_another_network_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Not half loaded: the message names a tensor with both shapes and the ids."""
    torch.save(VNetEncoder([3], **settings).state_dict(), tmp_path / "a.pt")
    target = VNet(1, 1, 2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    message = r"The encoder .*a\.pt is another one.*: network\.(encoder|downs).* is \[.* there and \[.* here.*strides"
    with pytest.raises(ValueError, match=message):
        load_pretrained(nn.ModuleDict({"network": target}), str(tmp_path / "a.pt"))
    assert same(target, before)
