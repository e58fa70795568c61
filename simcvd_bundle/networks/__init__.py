"""The networks: V-Net and projection head."""

from simcvd_bundle.networks.encoder import MLPHead, VNetEncoder
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet, VNetOutput

__all__ = [
    "MLPHead",
    "ProjectionHead",
    "VNet",
    "VNetEncoder",
    "VNetOutput",
]
