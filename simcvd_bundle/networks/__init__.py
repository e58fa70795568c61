"""The networks: V-Net and projection head."""

from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet, VNetOutput

__all__ = ["ProjectionHead", "VNet", "VNetOutput"]
