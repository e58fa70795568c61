"""The score of a mask without ground truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from simcvd_bundle.inference.quality import Quality, expected_dice


def pred(*foreground: list[float]) -> Tensor:
    """Probabilities of background and classes over a row of voxels."""
    classes = torch.tensor(foreground)
    return torch.cat([1 - classes.sum(0, keepdim=True), classes])[:, :, None, None]


@pytest.mark.parametrize(
    ("foreground", "expected"),
    [
        ([[1.0, 1.0, 0.0, 0.0]], 1.0),
        ([[0.8, 0.6, 0.4, 0.0]], 2 * 1.4 / (1.8 + 2)),
        ([[0.8, 0.6, 0.4, 0.4]], 2 * 1.4 / (2.2 + 2)),  # more outside
        ([[0.3, 0.2, 0.1, 0.0]], 0.0),  # nothing is found
        ([[0.9, 0.0, 0.0, 0.0], [0.0, 0.8, 0.8, 0.4]], (2 * 0.9 / 1.9 + 2 * 1.6 / (2.0 + 2)) / 2),
        ([[0.9, 0.2, 0.0, 0.0], [0.0, 0.0, 0.1, 0.1]], 2 * 0.9 / (1.1 + 1) / 2),  # the second is not found
    ],
)
def test_expected_dice_by_hand(foreground: list[list[float]], expected: float) -> None:
    score = expected_dice(pred(*foreground), len(foreground))
    assert score == pytest.approx(expected, abs=1e-6)
    with_sdm = torch.cat([pred(*foreground), torch.ones(len(foreground), 4, 1, 1)])
    assert expected_dice(with_sdm, len(foreground)) == pytest.approx(expected, abs=1e-6)


def test_a_dice_is_predicted_for_the_weights_of_the_calibration_alone(tmp_path: Path) -> None:
    weights, calibration = tmp_path / "model.pt", tmp_path / "quality.json"
    weights.write_bytes(b"weights")
    certain = pred([1.0, 0.0])
    assert Quality(1, str(weights), str(calibration))(certain) == {"quality": 1.0}
    content = {"weights": hashlib.sha256(b"weights").hexdigest(), "slope": 0.5, "intercept": 0.25}
    calibration.write_text(json.dumps(content))
    assert Quality(1, str(weights), str(calibration))(certain) == {"quality": 1.0, "predicted_dice": 0.75}
    calibration.write_text(json.dumps({**content, "slope": 9}))
    assert Quality(1, str(weights), str(calibration))(certain)["predicted_dice"] == 1
    weights.write_bytes(b"others")
    assert Quality(1, str(weights), str(calibration))(certain) == {"quality": 1.0}
