"""The networks: V-Net, projection head, several networks as one."""

from simcvd_bundle.networks.ensemble import Ensemble
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet, VNetOutput

__all__ = ["Ensemble", "ProjectionHead", "VNet", "VNetOutput"]
