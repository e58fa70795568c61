"""Options at test time: mirrored passes, the largest component, several networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers import Inferer, SimpleInferer
from probes import Probe, random
from torch import Tensor

from simcvd_bundle.inference.masks import CountVoxelsd, KeepLargestd
from simcvd_bundle.inference.mirror import MirroredInferer
from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.networks.ensemble import Ensemble
from simcvd_bundle.networks.vnet import VNet
from simcvd_bundle.runs.weights import load_weights, weight_files, with_members


class Corner(Inferer):
    """Gives the voxels before the middle of the first two axes twice their value."""

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        result = inputs.clone()
        result[:, :, : inputs.shape[2] // 2, : inputs.shape[3] // 2] *= 2
        return result


def test_mirrored_passes_are_averaged_in_the_plane() -> None:
    """Each quarter of the plane is the corner in one of the four passes; slices are not exchanged."""
    image = random(1, 2, 4, 6, 3)
    torch.testing.assert_close(MirroredInferer(Corner())(image, None), image * 1.25)


def test_mirrored_passes_of_a_network_do_not_depend_on_the_side() -> None:
    network = VNet(base_channels=2).eval()
    inferer = make_inferer("fast", [16, 16, 16], [8, 8, 8], with_sdm=True, precision="float32", mirror=True)
    image = random(1, 1, 16, 16, 16)
    with torch.no_grad():
        pred, mirrored = inferer(image, network), inferer(image.flip([2]), network)
        plain = make_inferer("fast", [16, 16, 16], [8, 8, 8], with_sdm=True, precision="float32")(image, network)
    torch.testing.assert_close(mirrored.flip([2]), pred, rtol=0, atol=1e-5)
    assert not torch.allclose(plain, pred, atol=1e-4)


def test_the_largest_component_of_each_class_stays() -> None:
    mask = torch.zeros(1, 6, 6, 4, dtype=torch.uint8)
    mask[0, :2, :2, :2] = 1
    mask[0, 2, 2, 2] = 1  # touches it at a corner
    mask[0, 5, 5, 3] = 1
    mask[0, 5, :3, 0] = 2
    mask[0, 0, 5, 0] = 2
    kept = KeepLargestd("pred", [1, 2, 3])({"pred": mask})["pred"]
    assert kept.dtype == torch.uint8
    assert CountVoxelsd("pred", num_classes=3)({"pred": kept})["voxels"] == [9, 3, 0]
    assert int(kept[0, 5, 5, 3]) == int(kept[0, 0, 5, 0]) == 0
    assert CountVoxelsd("pred", num_classes=3)({"pred": mask})["voxels"] == [10, 4, 0]


def test_an_ensemble_averages_probabilities_and_distances() -> None:
    members = [Probe(0.5), Probe(-2.0)]
    image = 3 * random(2, 1, 4, 4, 4)
    expected = torch.stack([member(image).softmax(1) for member in members]).mean(0)
    together = Ensemble(members)
    torch.testing.assert_close(together(image).softmax(1), expected)
    output = together(image, return_all=True)
    torch.testing.assert_close(output.logits, together(image))
    torch.testing.assert_close(output.sdm, torch.stack([m(image, return_all=True).sdm for m in members]).mean(0))
    pred = SimpleInferer()(image, together)
    assert pred.shape == (2, 3, 4, 4, 4)


@pytest.mark.parametrize("form", ["[{},{}]", "['{}', '{}']"])
def test_each_member_has_its_weights(tmp_path: Path, form: str) -> None:
    files = []
    for seed in range(2):
        torch.manual_seed(seed)
        files.append(str(tmp_path / f"{seed}.pt"))
        torch.save(VNet(base_channels=2).state_dict(), files[-1])
    weights = form.format(*files)
    assert weight_files(weights) == weight_files(files) == files
    network = with_members(VNet(base_channels=2), weights, "cpu").eval()
    load_weights(network, weights)
    image, expected = random(1, 1, 16, 16, 16), []
    for file in files:
        single = with_members(VNet(base_channels=2), file, "cpu").eval()
        load_weights(single, file)
        expected.append(make_inferer("fast", [16, 16, 16], [8, 8, 8], precision="float32")(image, single))
    pred = make_inferer("fast", [16, 16, 16], [8, 8, 8], precision="float32")(image, network)
    torch.testing.assert_close(pred, torch.stack(expected).mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", ["[]", "[a.pt,]", "[a.pt,a.pt]", []])
def test_bad_lists_of_weights_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="give each file once, as in"):
        weight_files(weights)
