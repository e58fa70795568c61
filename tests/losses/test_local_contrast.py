"""Supervised contrast of voxels against loops over its formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simcvd_bundle.losses import LocalContrastLoss
from simcvd_bundle.networks import EmbeddingNetwork, VNet


def naive(vectors: Tensor, classes: list[int], temperature: float) -> list[float]:
    """Losses of the vectors of one set that have others of their class."""
    z, losses = F.normalize(vectors, dim=1), []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if classes[j] == classes[i]]
        total = sum(math.exp(float(z[i] @ z[j]) / temperature) for j in others)
        logs = [math.log(math.exp(float(z[i] @ z[j]) / temperature) / total) for j in positives]
        if positives:
            losses.append(-sum(logs) / len(logs))
    return losses


def entries(*shape: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(2, 4, *shape, generator=generator).requires_grad_()
    return {"embedding": embedding}, {"label": torch.randint(3, (2, 1, *shape), generator=generator)}


def rows(pred: Tensor, label: Tensor, places: tuple[slice, ...]) -> tuple[Tensor, list[int]]:
    vectors = pred[(slice(None), slice(None), *places)].movedim(1, -1).flatten(0, -2).detach()
    return vectors, label[(slice(None), 0, *places)].flatten().tolist()


def test_every_voxel_of_all_patches_with_stride_1() -> None:
    pred, target = entries(2, 3, 2)
    losses = naive(*rows(pred["embedding"], target["label"], (slice(None),) * 3), 0.2)
    found = LocalContrastLoss("stride", 1, temperature=0.2)(pred, target)
    assert float(found.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    found.backward()
    assert pred["embedding"].grad is not None
    assert pred["embedding"].grad.isfinite().all()
    assert pred["embedding"].grad.abs().sum() > 0


def test_every_nth_voxel_from_a_random_one() -> None:
    pred, target = entries(5, 4, 1)
    expected = set()
    for x in range(2):
        for y in range(2):
            places = (slice(x, None, 2), slice(y, None, 2), slice(None))
            losses = naive(*rows(pred["embedding"], target["label"], places), 0.1)
            expected.add(round(sum(losses) / len(losses), 3))
    torch.manual_seed(0)
    found = {round(float(LocalContrastLoss("stride", 2)(pred, target).detach()), 3) for _ in range(40)}
    assert found == expected
    assert len(found) == 4


def test_within_blocks() -> None:
    pred, target = entries(4, 5, 2)
    losses = []
    for patch in range(2):
        for x in (0, 2):
            for y in (0, 2):  # the fifth row is over
                places = (slice(x, x + 2), slice(y, y + 2), slice(0, 2))
                one = pred["embedding"][patch : patch + 1], target["label"][patch : patch + 1]
                losses += naive(*rows(*one, places), 0.1)
    found = LocalContrastLoss("block", 2)(pred, target)
    assert float(found.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    torch.manual_seed(0)
    drawn = {round(float(LocalContrastLoss("block", 2, num_blocks=1)(pred, target).detach()), 4) for _ in range(30)}
    assert len(drawn) > 3


@pytest.mark.parametrize("sampling", ["stride", "block"])
def test_without_a_pair_the_loss_is_0_and_has_a_gradient(sampling: str) -> None:
    pred, _ = entries(1, 1, 1)
    target = {"label": torch.tensor([0, 1]).reshape(2, 1, 1, 1, 1)}
    loss = LocalContrastLoss(sampling)(pred, target)
    loss.backward()
    assert float(loss.detach()) == 0


def test_bad_settings_are_named() -> None:
    for settings in ({"sampling": "blocks"}, {"size": 0}, {"num_blocks": 0}, {"temperature": 0}):
        with pytest.raises(ValueError, match="LocalContrastLoss: sampling must be one of stride, block"):
            LocalContrastLoss(**settings)  # type: ignore[arg-type]
    for bad in ({"embedding_size": 0}, {"scales": 2}):
        with pytest.raises(ValueError, match="EmbeddingNetwork: embedding_size must be at least 1"):
            EmbeddingNetwork(base_channels=2, **bad)


def test_the_network_is_a_v_net_with_vectors_in_training() -> None:
    network = EmbeddingNetwork(embedding_size=3, base_channels=2).eval()
    image = torch.randn(1, 1, 17, 16, 9)
    output = network(image, return_all=True)
    assert output.embedding.shape == (1, 3, 17, 16, 9)
    assert output.extra_logits is None
    plain = VNet(base_channels=2).eval()
    plain.load_state_dict({name: t for name, t in network.state_dict().items() if not name.startswith("extra.")})
    assert torch.equal(plain(image), network(image))
    assert plain(image, return_all=True).embedding is None
