"""Images of the validation in TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from ignite.engine import Engine
from monai.data import Dataset
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


def shown(file: Path, name: str = "validation") -> list[tuple[int, np.ndarray]]:
    """Epoch and grey values of every panel in a TensorBoard file."""
    events = EventAccumulator(str(file))
    events.Reload()
    images = events.Images(name) if name in events.Tags()["images"] else []
    return [(e.step, np.asarray(Image.open(io.BytesIO(e.encoded_image_string)).convert("L"))) for e in images]


def test_the_panel_shows_the_slice_with_the_largest_label(tmp_path: Path) -> None:
    image, label = torch.zeros(1, *TILE, 3), torch.zeros(1, *TILE, 3)
    image[0, 4, 1, 1], image[0, 0, 0, 1], label[0, 2:5, 0, 1] = 1.0, 0.6, 1.0
    label[0, 0, 0, 2] = 1.0
    networks = {"student": Threshold(0.5), "teacher": Threshold(0.8).train()}
    inferer = WindowInferer((*TILE, 3), (*TILE, 3))
    data: Any = Dataset([{"image": image, "label": label}])
    handler = PanelsHandler(data, inferer, networks["student"], networks["teacher"], 1, str(tmp_path))
    assert not inferer.with_sdm  # the validation's own inferer stays as it is
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    assert networks["teacher"].training
    (file,) = (tmp_path / "tensorboard").iterdir()
    (first, panel), (second, _) = shown(file)
    assert (first, second) == (1, 2)
    assert panel.shape == (TILE[1], 5 * TILE[0] + 4)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "latest" / "panel.png").convert("L")), panel)
    tiles = [panel[:, (TILE[0] + 1) * n : (TILE[0] + 1) * n + TILE[0]] for n in range(5)]
    assert (panel[:, [6, 13, 20, 27]] == 255).all()
    x_y = [sorted(map(tuple, np.argwhere(tile.T > 127).tolist())) for tile in tiles]
    assert x_y[:4] == [[(0, 0), (4, 1)], [(2, 0), (3, 0), (4, 0)], [(0, 0), (4, 1)], [(4, 1)]]
    np.testing.assert_array_equal(tiles[4] == 0, tiles[2] == 255)  # the student's SDM: -1 inside


@pytest.mark.parametrize("validation", [True, False])
def test_a_training_writes_a_panel_soon_and_at_every_validation(
    run_bundle: Run, tmp_path: Path, validation: bool
) -> None:
    """Without validation cases of a labelled training case: the unlabelled ones come first in no list."""
    none = {} if validation else {"validate::dataset::data": []}
    run_bundle("train.json", iterations=4, class_names={"1": "left", "2": "right"}, **none)
    name = "validation" if validation else "training case"
    panels = [panel for file in (tmp_path / "run" / "tensorboard").iterdir() for panel in shown(file, name)]
    assert sorted(epoch for epoch, _ in panels) == [1, 2, 4]
    assert panels[0][1].shape == (20, 5 * 24 + 4)
    assert (tmp_path / "run" / "latest" / "panel.png").is_file()


@pytest.mark.parametrize(
    ("grid", "shape"),
    [
        ({"spacing": [1.4, 0.7, 2.0]}, (20, 12)), ({"spacing": [0.7, 0.7, 1.0]}, (20, 24)),
        ({"orientation": "PIR"}, (14, 20)),
    ],
    ids=["in the plane", "along the slices", "orientation"],
)  # fmt: skip
def test_image_and_label_lie_on_each_other_on_another_grid(
    run_bundle: Run, tmp_path: Path, dataset_dir: Path, grid: dict[str, Any], shape: tuple[int, int]
) -> None:
    """The image is the label plus noise, so bright voxels are those of the label, wherever the grid puts them."""
    run_bundle("train.json", **grid)
    (*_, (_, panel)) = [panel for file in (tmp_path / "run" / "tensorboard").iterdir() for panel in shown(file)]
    height, width = shape
    assert panel.shape == (height, 5 * width + 4)
    image, label = (panel[:, (width + 1) * n : (width + 1) * n + width].astype(float) for n in range(2))
    assert set(np.unique(label)) == {0.0, 255.0}
    assert image[label > 0].mean() > image[label == 0].mean() + 60
