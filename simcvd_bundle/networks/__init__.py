"""The networks: V-Net, its training-only outputs, and projection head."""

from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.twin import TwinNetwork
from simcvd_bundle.networks.vnet import VNet, VNetOutput

__all__ = ["ProjectionHead", "TwinNetwork", "VNet", "VNetOutput"]
