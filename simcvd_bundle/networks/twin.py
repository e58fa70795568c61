"""Two networks of one form that teach each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simcvd_bundle.networks.vnet import VNet, VNetOutput


class TwinNetwork(VNet):
    """A V-Net with a second one, of its own random start, beside it (cross pseudo supervision).

    The first one is the network: a plain call, its weights for inference and its names are those of ``VNet``. The
    second serves training only and gives ``extra_logits``.

    Source: Chen et al., CVPR 2021, arXiv:2106.01226.

    Args:
        **settings: arguments of both, see ``VNet``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if len(self.extra):  # type: ignore[arg-type]
            raise ValueError("TwinNetwork: its second network is the extra output, so no extra_decoders and scales.")
        self.extra = VNet(**settings)

    @torch.jit.unused
    def extra_logits(self, x: Tensor, *levels: Any) -> Tensor | None:
        """Logits of the second network for the same image, see ``VNetOutput``."""
        second: VNetOutput = self.extra(x, return_all=True)
        return second.logits[:, None]
