"""Several networks as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from simcvd_bundle.networks.vnet import VNetOutput


class TwoTeachers(nn.Module):
    """Two copies of a network, the surer of which counts more at every voxel.

    ``q = sum_k exp(-H(q_k)) q_k / sum_k exp(-H(q_k))``, H the entropy. Source: Zhao et al., ECCV 2024,
    arXiv:2311.17325 (AD-MT); ``AlternatingTeachersHandler`` moves them in turn.

    Args:
        network: what is copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(network) for _ in range(2))

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        """As ``VNet``; ``logits`` are the logarithms of q, ``extra_logits`` those of both; other maps are means."""
        outputs = [cast(VNetOutput, member(x, return_all=True)) for member in self.members]
        single = torch.stack([output.logits.float().log_softmax(1) for output in outputs], 1)
        sureness = torch.special.entr(single.exp()).sum(2, keepdim=True).neg().log_softmax(1)
        logits = (single + sureness).logsumexp(1)
        if not return_all:
            return logits
        sdm, features = (torch.stack([getattr(o, name) for o in outputs]).mean(0) for name in ("sdm", "features"))
        return VNetOutput(logits, sdm, features, single)


class Ensemble(nn.Module):
    """Networks of one kind whose probabilities and signed distance maps are averaged, such as those of several folds.

    Args:
        members: networks, for one volume each as ``VNet``.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        """As ``VNet``; ``logits`` are the logarithms of the mean probabilities, ``features`` those of the members."""
        if not return_all:
            return self._logits([member(x) for member in self.members])
        outputs = [cast(VNetOutput, member(x, return_all=True)) for member in self.members]
        sdm = torch.stack([output.sdm for output in outputs]).mean(0)
        return VNetOutput(
            self._logits([output.logits for output in outputs]), sdm, torch.cat([o.features for o in outputs], 1)
        )

    @staticmethod
    def _logits(logits: Sequence[Tensor]) -> Tensor:
        """Of each member's probabilities their mean, whose softmax it is: it sums to 1."""
        return torch.stack([single.float().log_softmax(1) for single in logits]).logsumexp(0)
