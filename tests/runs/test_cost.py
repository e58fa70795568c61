"""What a training says of its cost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from conftest import Run
from ignite.engine import Engine, Events
from torch import nn

from simcvd_bundle.networks import TwinNetwork, VNet
from simcvd_bundle.runs.cost import CostHandler


def train(student: nn.ModuleDict, folder: Path, epochs: int) -> dict[str, Any]:
    """Epochs of two iterations, 0.02 s each but the first; 0.3 s of validation after each epoch."""
    engine = Engine(lambda engine, _: time.sleep(0.2 if engine.state.iteration == 1 else 0.02))
    CostHandler(student, str(folder)).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: time.sleep(0.3))
    engine.run([0, 1], max_epochs=epochs)
    content: dict[str, Any] = json.loads((folder / "cost.json").read_text())
    return content


def test_an_iteration_is_the_typical_one_without_what_lies_between_epochs(tmp_path: Path) -> None:
    student = nn.ModuleDict({"network": TwinNetwork(base_channels=1), "head": nn.Linear(2, 3)})
    cost = train(student, tmp_path, 3)
    assert 0.02 <= cost["seconds_per_iteration"] < 0.1
    assert cost["epochs"] == 3
    single = sum(parameter.numel() for parameter in VNet(base_channels=1).parameters())
    assert cost["network_parameters"] == single
    assert cost["trained_parameters"] == 2 * single + 9
    assert cost["device"] == "cpu"


def test_memory_is_the_peak(tmp_path: Path) -> None:
    student = nn.ModuleDict({"network": VNet(base_channels=1)})
    before = train(student, tmp_path, 1)["peak_memory_mib"]
    size = 2**20 * (int(before) + 300) // 4
    del student
    assert torch.ones(size).sum() == size
    after = train(nn.ModuleDict({"network": VNet(base_channels=1)}), tmp_path, 1)["peak_memory_mib"]
    assert before > 50
    assert after >= before + 200


def test_a_training_writes_it_and_a_finished_one_keeps_it(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json", iterations=2, epoch_length=1)
    file = tmp_path / "run" / "cost.json"
    written = file.read_bytes()
    assert json.loads(written)["epochs"] == 2
    run_bundle("train.json", iterations=2, epoch_length=1, resume=True)
    assert file.read_bytes() == written
