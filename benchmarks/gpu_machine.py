"""What the checks of a GPU work with: the device, a folder, and trainings of phantoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from common import ROOT
from monai.bundle import ConfigWorkflow

from simcvd_bundle.data.phantoms import phantom_dataset

PRECISIONS = ("float32", "bfloat16", "float16")


class Skipped(Exception):
    """A check that does not apply here."""


class Machine:
    """The device, a folder, and trainings of phantoms on the one in the other.

    Args:
        device: ``"cuda"``, or ``"cpu"`` to try the script.
        folder: where everything is written.
        patch: patch of the trainings and of the timed steps.
    """

    def __init__(self, device: str, folder: str, patch: list[int]) -> None:
        self.device, self.folder, self.patch = device, folder, patch
        self.data = phantom_dataset(f"{folder}/phantoms", shape=tuple(max(30, size + 8) for size in patch))
        self.steps, self.channels = (20, 16) if device == "cuda" else (2, 2)

    def settings(self, name: str) -> dict[str, Any]:
        """Ids of a training in a folder of its own."""
        return {
            "bundle_root": str(ROOT), "device": self.device, "patch_size": self.patch, "dataset_dir": self.data,
            "cache_dir": f"{self.folder}/cache", "output_dir": f"{self.folder}/{name}", "precision": "float32",
            "ckpt_dir": f"{self.folder}/{name}/models", "iterations": 2 * self.steps, "epoch_length": self.steps,
            "num_workers": 0, "validate::dataset::data": [], "network_def::base_channels": self.channels,
        }  # fmt: skip

    def train(self, name: str, prepare: Callable[[Any], None] | None = None, **settings: Any) -> Any:
        """Train, and return the trainer; ``prepare`` is given it before it runs."""
        workflow = ConfigWorkflow(
            config_file=str(ROOT / "configs" / "train.json"), workflow_type="train", logging_file=False,
            **{**self.settings(name), **settings},
        )  # fmt: skip
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train::trainer")
        if prepare:
            prepare(trainer)
        workflow.run()
        workflow.finalize()
        return trainer

    def weights(self, name: str) -> Mapping[str, torch.Tensor]:
        """What the training of this name wrote."""
        weights: Mapping[str, torch.Tensor] = torch.load(f"{self.folder}/{name}/model.pt", weights_only=True)
        return weights

    def need_cuda(self) -> None:
        """Skip a check elsewhere."""
        if self.device != "cuda":
            raise Skipped("on CUDA only")
