"""Views: noise of its own stream, drawn from torch's generator."""

from __future__ import annotations

import pytest
import torch

from simcvd_bundle.training.views import GaussianNoise, seen_through


def test_noise_leaves_the_labelled_images_and_its_input() -> None:
    images = {"labeled": torch.zeros(1, 1, 4, 4, 4), "unlabeled": torch.zeros(2, 1, 4, 4, 4)}
    seen = GaussianNoise(1.0, 0.5)(images)
    assert seen["labeled"] is images["labeled"]
    assert float(images["unlabeled"].abs().max()) == 0
    assert float(seen["unlabeled"].abs().max()) == 0.5


def test_noise_is_that_of_the_generator() -> None:
    images = {"unlabeled": torch.zeros(2, 1, 4, 4, 4)}
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(GaussianNoise()(images)["unlabeled"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_without_the_stream_nothing_is_drawn() -> None:
    state = torch.get_rng_state()
    assert GaussianNoise()({"labeled": torch.zeros(1)}).keys() == {"labeled"}
    assert torch.equal(torch.get_rng_state(), state)


def test_no_view_shows_the_images_as_they_are() -> None:
    images = {"labeled": torch.zeros(1)}
    seen = seen_through([], images)
    assert seen["labeled"] is images["labeled"]
    assert seen is not images


@pytest.mark.parametrize(("std", "clip"), [(-0.1, 0.2), (0.1, -0.2), (float("nan"), 0.2)])
def test_numbers_out_of_range_raise(std: float, clip: float) -> None:
    with pytest.raises(ValueError, match=f"GaussianNoise: std and clip must be at least 0, got {std} and {clip}"):
        GaussianNoise(std, clip)
