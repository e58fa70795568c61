"""Stand-ins for networks, inferers and engines, and what is looked up in a checkpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from simcvd_bundle.networks.vnet import VNetOutput


class Probe(nn.Module):
    """A voxel-wise stand-in for the V-Net that remembers its inputs and outputs, and whether it had gradients."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen: list[Tensor] = []
        self.returned: list[VNetOutput] = []
        self.had_grad: list[bool] = []

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        self.seen.append(x.detach().clone())
        self.had_grad.append(torch.is_grad_enabled())
        mean = x.mean(1, keepdim=True) * self.factor
        output = VNetOutput(torch.cat([-mean, mean, mean**2], 1), torch.cat([mean, -mean], 1).tanh(), mean[..., ::2])
        self.returned.append(output)
        return output if return_all else output.logits


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class AboveMean:
    """An inferer that needs no network: of z-scored images the voxels above the mean are the class."""

    def __init__(self, with_sdm: bool = False) -> None:
        self.with_sdm = with_sdm

    def __call__(self, inputs: Tensor, network: Any) -> Tensor:
        mean = inputs.mean(1, keepdim=True)
        return torch.cat([-mean, mean, -mean][: 3 if self.with_sdm else 2], 1)


def tensors(content: Any, name: str = "") -> dict[str, Tensor]:
    """Tensors of nested dicts, by path."""
    if isinstance(content, Tensor):
        return {name: content}
    if isinstance(content, dict):
        return {key: t for part, value in content.items() for key, t in tensors(value, f"{name}.{part}").items()}
    return {}


def engine_at(iteration: int) -> Any:
    """What a handler reads of an engine that has come to an iteration."""
    return SimpleNamespace(state=SimpleNamespace(iteration=iteration))
