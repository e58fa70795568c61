"""What is said and written while a training runs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Run
from ignite.engine import Engine, Events
from torch import nn

from simcvd_bundle.runs.watching import FallingMetric, LatestNetwork
from simcvd_bundle.training.progress import ProgressHandler


class Spoil:
    """Handler that makes the network predict background only, after an epoch."""

    def __init__(self, network: nn.Module, epoch: int) -> None:
        self.network = network
        self.epoch = epoch

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED(once=self.epoch), self)

    def __call__(self, engine: Engine) -> None:
        for parameter in self.network.parameters():
            parameter.data.zero_()
        dict(self.network.named_parameters())["segmentation.bias"].data[0] = 100.0


def overlay(folder: Path, handler: dict[str, Any]) -> str:
    path = folder / "handler.json"
    path.write_text(json.dumps({"+train::handlers": [handler]}))
    return str(path)


def test_a_usable_network_is_there_long_before_the_end(run_bundle: Run, dataset_dir: Path, tmp_path: Path) -> None:
    """After the first epoch, in a run that breaks off before its first checkpoint."""
    interrupt = overlay(tmp_path, {"_target_": "conftest.Interrupt", "iteration": 2})
    with pytest.raises(KeyboardInterrupt):
        run_bundle("train.json", interrupt, iterations=40, checkpoint_interval=10, val_interval=10)
    run = tmp_path / "run"
    assert not (run / "model.pt").exists()  # which says that a run is complete
    assert sorted(path.name for path in (run / "latest").iterdir()) == ["model.pt", "panel.png"]
    run_bundle(
        "inference.json", dataset_dir=dataset_dir / "image_4.nii.gz", workflow_type="infer", num_workers=0,
        weights=str(run / "latest" / "model.pt"), output_dir=str(tmp_path / "masks"),
    )  # fmt: skip
    assert (tmp_path / "masks" / "image_4_seg.nii.gz").is_file()


def test_the_network_is_replaced_at_checkpoints_and_never_by_bad_numbers(tmp_path: Path) -> None:
    network = nn.Linear(1, 1, bias=False)
    seen = []
    file = tmp_path / "latest" / "model.pt"

    def step(engine: Engine, batch: Any) -> None:
        network.weight.data.fill_(float("nan") if engine.state.iteration == 6 else engine.state.iteration)

    engine = Engine(step)
    LatestNetwork(network, str(tmp_path), 3).attach(engine)  # type: ignore[arg-type]
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: seen.append(torch.load(file, weights_only=True)["weight"].item())
    )
    engine.run([0], max_epochs=7)
    assert seen == [1, 1, 3, 3, 3, 3, 3]
    assert [path.name for path in (tmp_path / "latest").iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.78, None), (0.7, "too closely (overfitting)"), (0.3, "it has collapsed, a class may have died out")],
)
def test_a_falling_validation_is_named_with_its_iteration(
    caplog: pytest.LogCaptureFixture, value: float, words: str | None
) -> None:
    trainer: Any = SimpleNamespace(state=SimpleNamespace(iteration=300, epoch_length=50))
    evaluator = Engine(lambda engine, batch: None)
    for name, content in {"key_metric_name": "dice", "best_metric": 0.8, "best_metric_epoch": 2}.items():
        setattr(evaluator.state, name, content)
    evaluator.state.metrics["dice"] = value
    handler = FallingMetric("student", trainer)
    handler(evaluator)
    if words is None:
        assert caplog.text == ""
        return
    assert f"The validation of the student falls: Dice {value:.3f} at iteration 300, after 0.800 at iteration 100" in (
        caplog.text
    )
    assert words in caplog.text
    assert "--iterations 100" in caplog.text


def test_a_training_says_that_its_validation_fell(
    run_bundle: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An untrained network finds some of the class, one that knows background only finds nothing."""
    spoil = overlay(tmp_path, {"_target_": "test_watching.Spoil", "network": "@network", "epoch": 2})
    with caplog.at_level(logging.INFO):
        run_bundle("train.json", spoil, iterations=2, val_interval=1, learning_rate=1e-9)
    assert caplog.text.count("The validation of the student falls: Dice 0.000 at iteration 2") == 1
    assert "No validation cases" not in caplog.text


def test_without_validation_the_log_says_that_nothing_watches(
    run_bundle: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run_bundle("train.json", **{"validate::dataset::data": []})
    assert "No validation cases: nothing tells overfitting or a collapse" in caplog.text


def test_the_end_is_foretold_soon_and_after_a_resume(caplog: pytest.LogCaptureFixture) -> None:
    """Every epoch, and after 5 iterations of this process; what was done before it takes no time."""
    now = iter(float(n) for n in range(1000))
    engine = Engine(lambda engine, batch: None)
    engine.load_state_dict({"iteration": 20, "epoch_length": 10, "max_epochs": 4})
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr("simcvd_bundle.training.progress.time.monotonic", lambda: next(now))
        ProgressHandler("training").attach(engine)
        engine.run([0] * 10)
    lines = [record.getMessage() for record in caplog.records if record.name == "simcvd_bundle.training.progress"]
    assert [line.split(" each")[0] for line in lines] == [
        "Iteration 25 of 40, 0.2 s", "Iteration 30 of 40, 0.2 s", "Iteration 40 of 40, 0.15 s",
    ]  # fmt: skip
    assert "end expected in 0:00:03, at " in lines[0]
