"""The networks: V-Net and projection head."""

from simcvd_bundle.networks.encoder import EmbeddingHead, MLPHead, VNetEncoder
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet, VNetOutput

__all__ = [
    "EmbeddingHead",
    "MLPHead",
    "ProjectionHead",
    "VNet",
    "VNetEncoder",
    "VNetOutput",
]
