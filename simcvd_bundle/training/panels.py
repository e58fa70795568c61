"""Images of the networks' state, in TensorBoard and as a file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.networks.utils import eval_mode
from monai.transforms import ResampleToMatch, rescale_array
from monai.utils import convert_to_tensor
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from simcvd_bundle.data.cases import CheckedDataset
from simcvd_bundle.networks.vnet import split_output
from simcvd_bundle.utils.atomic import atomically


class PanelsHandler:
    """Show one axial slice of the first validation case: image, label, masks of student and teacher, the student's SDM.

    Without validation cases it is the first labelled training case. After the first epoch and then at every
    ``interval`` the panel goes to ``output_dir/tensorboard`` and replaces ``output_dir/latest/panel.png``.

    The slice is the one with the largest label. Grey values: image from its minimum to its maximum, classes from 0 to
    ``num_classes``, SDM from -1 (inside) to 1; of several classes' SDMs the smallest. MONAI's
    ``TensorBoardImageHandler`` shows whole volumes of one network as animated GIFs, and no SDM.

    The label is put on the grid of the image, which ``spacing`` and ``orientation`` may have changed.

    Args:
        dataset: the validation data, items with ``image`` and ``label`` of shape ``(channels, H, W, D)``.
        inferer: gives probabilities, and SDMs behind them if its ``with_sdm`` says so.
        student: network.
        teacher: network of the same form.
        num_classes: number of foreground classes.
        output_dir: folder of the run.
        interval: epochs between two panels.
        training: items of the training, of which one is shown where there is no validation case.
    """

    def __init__(
        self, dataset: CheckedDataset, inferer: Inferer, student: nn.Module, teacher: nn.Module,
        num_classes: int, output_dir: str, interval: int = 1, training: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        self.dataset = dataset
        self.name = "validation"
        if len(dataset) == 0:
            self.dataset = copy.copy(dataset)
            self.dataset.data = [item for item in training if item.get("label") is not None][:1]
            self.name = "training case"
        self.inferer = copy.copy(inferer)
        self.inferer.with_sdm = True  # type: ignore[attr-defined]
        self.networks = student, teacher
        self.num_classes = num_classes
        self.output_dir = Path(output_dir)
        self.interval = interval
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Register on a trainer; process 0 only."""
        if idist.get_rank() == 0 and len(self.dataset) > 0:
            due = Events.EPOCH_COMPLETED(event_filter=lambda _, epoch: epoch == 1 or epoch % self.interval == 0)
            engine.add_event_handler(due, self)

    def __call__(self, engine: Engine) -> None:
        """Write the panel of this epoch."""
        if self.writer is None:  # one file for all panels: a reader that watches the folder leaves older files
            self.writer = SummaryWriter(str(self.output_dir / "tensorboard"))
        panel = self.panel()
        self.writer.add_image(self.name, panel, engine.state.epoch)
        self.writer.flush()
        with atomically(self.output_dir / "latest" / "panel.png", durable=False) as unfinished:
            Image.fromarray((255 * panel[0]).round().byte().numpy()).save(unfinished, "png")

    def panel(self) -> Tensor:
        """The five tiles side by side, ``(1, W, 5 * H + 4)``, float32 in [0, 1]; x to the right, y down."""
        item = self.dataset[0]
        image, label = item["image"], item["label"]
        if isinstance(label, MetaTensor):
            label = ResampleToMatch(mode="nearest")(label, image)
        image, label = (convert_to_tensor(volume, track_meta=False) for volume in (image, label))
        z = int((label > 0).sum((0, 1, 2)).argmax())
        masks = []
        for network in self.networks:
            with eval_mode(network):
                device = next(network.parameters()).device
                masks.append(self.inferer(image[None].to(device), network)[0, ..., z].cpu())
        parts = [split_output(mask, self.num_classes) for mask in masks]
        tiles = [
            rescale_array(image[0, ..., z], 0, 1),
            label[0, ..., z] / self.num_classes,
            *(probability.argmax(0) / self.num_classes for probability, _ in parts),
            (parts[0][1].amin(0) + 1) / 2,
        ]
        framed = [F.pad(torch.as_tensor(tile).float().T, (0, 1), value=1.0) for tile in tiles]
        return torch.cat(framed, 1)[None, :, :-1]
