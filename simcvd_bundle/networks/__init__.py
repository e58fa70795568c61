"""The networks: V-Net, its training-only outputs, projection head and critic, several networks as one."""

from simcvd_bundle.networks.critic import Critic
from simcvd_bundle.networks.embedding import EmbeddingNetwork
from simcvd_bundle.networks.encoder import MLPHead, VNetEncoder
from simcvd_bundle.networks.ensemble import Ensemble, TwoTeachers
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.twin import TwinNetwork
from simcvd_bundle.networks.vnet import VNet, VNetOutput

__all__ = [
    "Critic",
    "EmbeddingNetwork",
    "Ensemble",
    "MLPHead",
    "ProjectionHead",
    "TwinNetwork",
    "TwoTeachers",
    "VNet",
    "VNetEncoder",
    "VNetOutput",
]
