"""Images of the validation in TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from conftest import Run
from ignite.engine import Engine
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from simcvd_bundle.inference.windows import WindowInferer
from simcvd_bundle.networks.vnet import VNetOutput
from simcvd_bundle.training.panels import PanelsHandler

TILE = (6, 4)  # width, height


class Threshold(nn.Module):
    """Segments what lies above a level; the SDM is that level's sign."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, x: Tensor, return_all: bool = False) -> VNetOutput:
        above = (x > self.level).float()
        return VNetOutput(torch.cat([1 - above, above], 1), 1 - 2 * above, x)


def shown(file: Path) -> list[tuple[int, np.ndarray]]:
    """Epoch and grey values of every panel in a TensorBoard file."""
    events = EventAccumulator(str(file))
    events.Reload()
    images = events.Images("validation") if "validation" in events.Tags()["images"] else []
    return [(e.step, np.asarray(Image.open(io.BytesIO(e.encoded_image_string)).convert("L"))) for e in images]


def test_the_panel_shows_the_slice_with_the_largest_label(tmp_path: Path) -> None:
    image, label = torch.zeros(1, *TILE, 3), torch.zeros(1, *TILE, 3)
    image[0, 4, 1, 1], image[0, 0, 0, 1], label[0, 2:5, 0, 1] = 1.0, 0.6, 1.0
    label[0, 0, 0, 2] = 1.0
    networks = {"student": Threshold(0.5), "teacher": Threshold(0.8).train()}
    inferer = WindowInferer((*TILE, 3), (*TILE, 3), with_sdm=True)
    handler = PanelsHandler([{"image": image, "label": label}], inferer, networks, 1, str(tmp_path))  # type: ignore[arg-type]
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    assert networks["teacher"].training
    (file,) = tmp_path.iterdir()
    (first, panel), (second, _) = shown(file)
    assert (first, second) == (1, 2)
    assert panel.shape == (TILE[1], 5 * TILE[0] + 4)
    tiles = [panel[:, (TILE[0] + 1) * n : (TILE[0] + 1) * n + TILE[0]] for n in range(5)]
    assert (panel[:, [6, 13, 20, 27]] == 255).all()
    x_y = [sorted(map(tuple, np.argwhere(tile.T > 127).tolist())) for tile in tiles]
    assert x_y[:4] == [[(0, 0), (4, 1)], [(2, 0), (3, 0), (4, 0)], [(0, 0), (4, 1)], [(4, 1)]]
    np.testing.assert_array_equal(tiles[4] == 0, tiles[2] == 255)  # the student's SDM: -1 inside


def test_a_training_writes_a_panel_a_validation(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json", iterations=4, class_names={"1": "left", "2": "right"})
    panels = [panel for file in (tmp_path / "run" / "tensorboard").iterdir() for panel in shown(file)]
    assert [epoch for epoch, _ in panels] == [2, 4]
    assert panels[0][1].shape == (20, 5 * 24 + 4)
