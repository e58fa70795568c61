"""Finite numbers: the stop at a bad loss with its iteration, terms and cases, clipping, and checkpoints without NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, Run
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import Tensor, nn

from simcvd_bundle.losses import SignedDistanceLoss
from simcvd_bundle.runs.checkpoints import LossScale, RunCheckpoint
from simcvd_bundle.training.guards import FiniteLossHandler, GradientClippingHandler


class BadLoss(SignedDistanceLoss):
    """A term of the loss that turns bad at one iteration."""

    def __init__(self, iteration: int, bad: str) -> None:
        super().__init__()
        self.iteration, self.bad, self.calls = iteration, float(bad), 0

    def forward(self, pred: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        self.calls += 1
        factor = self.bad if self.calls == self.iteration else 1.0
        return super().forward({**pred, "sdm": pred["sdm"] * factor}, target)


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_bad_loss_stops_the_training_and_keeps_the_last_good_checkpoint(
    run_bundle: Run, dataset_dir: Path, tmp_path: Path, bad: str
) -> None:
    overlay = tmp_path / "bad.json"
    term = {"_target_": "test_guards.BadLoss", "iteration": 3, "bad": bad}
    overlay.write_text(json.dumps({"loss::terms::sdm::loss": term}))
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", str(overlay), iterations=6, **{"validate::dataset::data": []})
    message = str(error.value.__cause__)
    assert "not finite at iteration 3: loss" in message
    assert f"loss_sdm {bad}" in message
    assert "loss_segmentation 0." in message
    assert message.count(str(dataset_dir / "image_")) == 4  # 2 labelled and 2 unlabelled patches, of as many cases
    files = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [file.name for file in files] == ["checkpoint_1.pt", "checkpoint_2.pt"]
    weights = torch.load(files[-1], weights_only=True)["student"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert not (tmp_path / "models" / "model.pt").exists()


def test_images_of_a_datastore_are_named_too(run_bundle: Run, dataset_dir: Path) -> None:
    """Those that MONAI Label's bundle finds beside the labelled ones, which no datalist has."""
    bad = {"_target_": "test_guards.BadLoss", "iteration": 1, "bad": "nan"}
    labeled = [{key: str(dataset_dir / f"{key}_0.nii.gz") for key in ("image", "label")}]
    others = [{"image": str(dataset_dir / f"image_{number}.nii.gz")} for number in (3, 4)]
    with pytest.raises(RuntimeError) as error:
        run_bundle(
            "train.json", unlabeled_data=others, num_labeled=None,
            **{"loss::terms::sdm::loss": bad, "train::dataset::data": labeled, "validate::dataset::data": []},
        )  # fmt: skip
    message = str(error.value.__cause__)
    assert "not finite at iteration 1" in message
    for number in (0, 3, 4):
        assert str(dataset_dir / f"image_{number}.nii.gz") in message


class Sampler:
    """Case ``n`` at iteration ``n`` (from 0)."""

    cases = tuple({"image": f"case_{n}"} for n in range(20))

    def batch(self, iteration: int) -> list[Any]:
        return [type("Index", (), {"case": iteration})]


def test_losses_on_a_device_are_looked_at_together_and_at_the_end_of_the_epoch() -> None:
    """The meta device stands for a GPU: a look at a single value of it raises."""
    handler = FiniteLossHandler(Sampler(), interval=4)  # type: ignore[arg-type]
    looks = []
    handler.check = lambda: looks.append(engine.state.iteration)  # type: ignore[method-assign]

    def step(engine: Engine, batch: Any) -> list[Any]:
        return [{"loss": {"loss": torch.zeros((), device="meta")}}]

    engine = Engine(step)
    handler.attach(engine)
    engine.run([0] * 6, max_epochs=1)
    assert looks == [4, 6]


def test_the_first_bad_iteration_is_named() -> None:
    handler = FiniteLossHandler(Sampler())  # type: ignore[arg-type]
    values = [1.0, 2.0, math.inf, math.nan]
    handler.recent = [(n + 1, {"loss": torch.tensor(v), "loss_a": torch.tensor(v)}) for n, v in enumerate(values)]
    with pytest.raises(FloatingPointError, match=r"iteration 3: loss inf, loss_a inf\. Cases: case_2\. Checkpoints"):
        handler.check()
    assert handler.recent == []
    handler.recent = [(1, {"loss": torch.tensor(1.0)})]
    handler.check()


def trainer(network: nn.Module, scaler: Any = None) -> Any:
    engine: Any = Engine(lambda engine, batch: None)
    engine.optimizer, engine.scaler = torch.optim.SGD(network.parameters(), 1.0), scaler
    return engine


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize(("value", "clipped"), [(5.0, 2.0 / math.sqrt(8)), (0.1, 0.1)])
def test_clipping_bounds_the_norm_of_the_unscaled_gradient(scale: float, value: float, clipped: float) -> None:
    """A small gradient stays as it is, although the scaled one is large."""
    network = nn.Linear(3, 2)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, value * scale)

    class Scaler:
        def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
            for parameter in network.parameters():
                parameter.grad /= scale

    GradientClippingHandler(2.0)(trainer(network, Scaler() if scale > 1 else None))
    gradient = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    torch.testing.assert_close(gradient, torch.full((8,), clipped), atol=1e-5, rtol=0)


def test_clipping_is_off_unless_asked_for(run_bundle: Run, tmp_path: Path) -> None:
    weights = []
    for number, norm in enumerate([None, 1e9, 1e-3]):
        run_bundle("train.json", max_grad_norm=norm, output_dir=str(tmp_path / str(number)),
                   **{"validate::dataset::data": []})  # fmt: skip
        weights.append(torch.load(tmp_path / str(number) / "model.pt", weights_only=True)["segmentation.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_loss_scale_is_restored_where_one_was_saved() -> None:
    """float16 has a scaler on GPUs only, so a run begun on CPU saved none."""
    loaded: list[dict[str, float]] = []
    scaler = SimpleNamespace(load_state_dict=loaded.append, state_dict=lambda: {"scale": 2.0})
    for saved in (None, scaler):
        LossScale(trainer(nn.Linear(1, 1), scaler)).load_state_dict(
            LossScale(trainer(nn.Linear(1, 1), saved)).state_dict()
        )
    assert loaded == [{"scale": 2.0}]


def test_the_optimizer_is_fused_unless_a_scaler_may_skip_its_step() -> None:
    """A fused step that float16's scaler skips as the first one leaves the momentum as memory was: NaN."""
    for precision, fused in (("float16", False), ("bfloat16", True), ("auto", True)):
        parser = ConfigParser()
        parser.read_config(ROOT / "configs" / "train.json")
        parser["precision"], parser["device"] = precision, "cpu"
        assert parser.get_parsed_content("optimizer").defaults["fused"] is fused


def test_numbers_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    engine = trainer(network)
    RunCheckpoint(str(tmp_path), {"model": network}).attach(engine)

    @engine.on(Events.EPOCH_STARTED(once=3))
    def break_weights() -> None:
        network.bias.data.fill_(math.inf)

    with pytest.raises(FloatingPointError, match=r"iteration 3 model\.bias and 0 other .*checkpoint_2\.pt is kept"):
        engine.run([0], max_epochs=5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint_1.pt", "checkpoint_2.pt"]
