"""The mean teacher by hand, and random streams that survive a resume."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from simcvd_bundle.data.batches import SampleIndex, StreamBatchSampler
from simcvd_bundle.losses import SegmentationLoss, SignedDistanceLoss, WeightedTerms
from simcvd_bundle.training.logs import LogsHandler, LossTermsHandler
from simcvd_bundle.training.schedules import RampUpHandler, sigmoid_rampup
from simcvd_bundle.training.streams import RandomStreamsHandler
from simcvd_bundle.training.teacher import MeanTeacherHandler

STREAMS = {"labeled": 1, "unlabeled": 2}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def fill(module: nn.Module, value: float) -> None:
    """An optimiser step that sets every parameter to ``value``."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


def level(module: nn.Module) -> float:
    """The value that all parameters share."""
    (value,) = torch.cat([p.detach().flatten() for p in module.parameters()]).unique().tolist()
    return float(value)


def train(student: nn.Module, teacher: nn.Module, steps: list[float], decay: float = 0.999) -> list[float]:
    """Set the student's parameters to one value a step and return the teacher's value after each."""
    engine = Engine(lambda engine, batch: fill(student, batch))
    MeanTeacherHandler(student, teacher, decay).attach(engine)
    levels: list[float] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: levels.append(level(teacher)))
    engine.run(steps, max_epochs=1)
    return levels


def at_start(student: nn.Module, teacher: nn.Module, iteration: int) -> dict[str, Tensor]:
    """The teacher's state when the first iteration of a run that was left at ``iteration`` begins."""
    seen: dict[str, Tensor] = {}

    def record(engine: Engine, batch: Any) -> None:
        if not seen:
            seen.update({name: t.clone() for name, t in teacher.state_dict().items()})

    engine = Engine(record)
    MeanTeacherHandler(student, teacher).attach(engine)
    fill(student, 7.0)  # weights that the student gets after the construction
    student[1].running_mean.fill_(9.0)  # type: ignore[index]
    engine.load_state_dict({"iteration": iteration, "epoch_length": 2, "max_epochs": 4})
    engine.run([0, 1])
    assert seen
    return seen


# mean teacher


def test_teacher_after_one_and_three_steps() -> None:
    """Decays 0, 1/2, 2/3: with a bound not yet reached the teacher is the mean of all students so far."""
    student = network()
    assert train(student, copy.deepcopy(student), [1.0, 3.0, 8.0]) == pytest.approx([1.0, 2.0, 4.0], rel=1e-6)


def test_decay_is_bounded() -> None:
    """Decays 0, 0.3, 0.3."""
    student = network()
    expected = [1.0, 0.3 * 1 + 0.7 * 3, 0.3 * (0.3 * 1 + 0.7 * 3) + 0.7 * 8]
    assert train(student, copy.deepcopy(student), [1.0, 3.0, 8.0], decay=0.3) == pytest.approx(expected, rel=1e-6)


def test_up_to_its_start_the_teacher_is_a_copy() -> None:
    """Statistics included; the step after moves it with the decay of its iteration, 1 - 1/3."""
    student = network()
    teacher = copy.deepcopy(student)
    levels = []

    def step(engine: Engine, value: float) -> None:
        fill(student, value)
        student[1].running_mean.fill_(10 * value)

    engine = Engine(step)
    MeanTeacherHandler(student, teacher, start=2).attach(engine)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: levels.append((level(teacher), float(teacher[1].running_mean[0])))
    )
    engine.run([1.0, 3.0, 9.0], max_epochs=1)
    assert levels[:2] == [(1.0, 10.0), (3.0, 30.0)]
    assert levels[2] == (pytest.approx(2 / 3 * 3 + 1 / 3 * 9), 30.0)
    with pytest.raises(ValueError, match=r"teacher_start is a number of iterations and must not be negative, got -1"):
        MeanTeacherHandler(network(), network(), start=-1)


def test_late_in_a_training_the_decay_is_that_of_the_paper() -> None:
    student = network()
    teacher = copy.deepcopy(student)
    handler, engine = MeanTeacherHandler(student, teacher), Engine(lambda engine, batch: None)
    fill(teacher, 1.0)
    fill(student, 2.0)
    engine.state.iteration = 5000
    handler(engine)
    assert level(teacher) == pytest.approx(1.001, abs=1e-6)
    engine.state.iteration = 500  # 1 - 1 / 500 = 0.998 is the smaller one
    fill(teacher, 1.0)
    handler(engine)
    assert level(teacher) == pytest.approx(1.002, abs=1e-6)


def test_decay_zero_copies_the_student() -> None:
    student = network()
    assert train(student, copy.deepcopy(student), [1.0, 3.0], decay=0.0) == [1.0, 3.0]


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_decay_out_of_range_raises(decay: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"ema_decay must lie in [0, 1), got {decay}.")):
        MeanTeacherHandler(network(), network(), decay)


def share_everything(student: nn.Sequential) -> nn.Module:
    return student


def share_a_parameter(student: nn.Sequential) -> nn.Module:
    teacher = copy.deepcopy(student)
    teacher[0].bias = student[0].bias
    return teacher


def share_a_buffer(student: nn.Sequential) -> nn.Module:
    """What ignite's EMAHandler does by default."""
    teacher = copy.deepcopy(student)
    teacher[1].running_var = student[1].running_var
    return teacher


@pytest.mark.parametrize("make_teacher", [share_everything, share_a_parameter, share_a_buffer])
def test_shared_storage_raises(make_teacher: Callable[[nn.Sequential], nn.Module]) -> None:
    student = network()
    with pytest.raises(ValueError, match="student and teacher share storage; make the teacher a deep copy"):
        MeanTeacherHandler(student, make_teacher(student))
    assert all(p.requires_grad for p in student.parameters())


def test_storage_stays_disjoint() -> None:
    student = network()
    teacher = copy.deepcopy(student)
    train(student, teacher, [1.0, 2.0])
    pointers = [{t.data_ptr() for t in module.state_dict().values()} for module in (student, teacher)]
    assert not pointers[0] & pointers[1]


def test_fresh_run_copies_the_student_of_its_start() -> None:
    """Weights loaded after the construction count, buffers included."""
    seen = at_start(network(), network(1), iteration=0)
    assert {float(seen[name].unique()) for name in ("0.weight", "0.bias", "1.weight", "1.bias")} == {7.0}
    assert seen["1.running_mean"].tolist() == [9.0] * 3


def test_resumed_run_keeps_the_teacher() -> None:
    teacher = network(1)
    before = {name: t.clone() for name, t in teacher.state_dict().items()}
    seen = at_start(network(), teacher, iteration=2)
    assert all(torch.equal(seen[name], before[name]) for name in before)


def test_batch_norm_statistics_of_the_teacher_are_its_own() -> None:
    student = network()
    teacher = copy.deepcopy(student)

    def step(engine: Engine, batch: Tensor) -> None:
        student(batch + 10)
        teacher(batch)

    engine = Engine(step)
    MeanTeacherHandler(student, teacher).attach(engine)
    reference = copy.deepcopy(student).train()
    batches = [torch.randn(8, 2, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    engine.run(batches, max_epochs=1)
    for batch in batches:
        reference(batch)
    torch.testing.assert_close(teacher[1].running_mean, reference[1].running_mean)
    assert not torch.allclose(teacher[1].running_mean, student[1].running_mean)


def test_teacher_has_no_gradient_and_runs_in_train_mode() -> None:
    student = network()
    teacher = copy.deepcopy(student).eval()
    train(student, teacher, [1.0])
    assert teacher.training
    assert teacher[1].training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    assert all(p.grad_fn is None for p in teacher.parameters())


# random streams


class Echo(Dataset[SampleIndex]):
    """Three labelled and four unlabelled cases; an item is its own index and seed."""

    data: tuple[dict[str, str], ...] = ({"label": "x"},) * 3 + ({},) * 4

    def __getitem__(self, index: Any) -> SampleIndex:
        return index


def run(iteration: int = 0, seed: int = 0, rank: int = 0, until: int = 6) -> list[tuple[Any, list[float]]]:
    """Batch and random draws of each iteration, two an epoch, of a run that begins after ``iteration``."""
    dataset = Echo()
    sampler = StreamBatchSampler(dataset, STREAMS, num_iterations=6, seed=seed)
    loader: Any = DataLoader(dataset, batch_sampler=sampler, collate_fn=tuple)
    drawn: list[tuple[Any, list[float]]] = []
    engine = Engine(lambda engine, batch: drawn.append((batch, torch.rand(3).tolist())))
    RandomStreamsHandler(sampler, seed, rank).attach(engine)
    engine.load_state_dict({"iteration": iteration, "epoch_length": 2, "max_epochs": until // 2})
    torch.manual_seed(12345 + iteration)  # what happened before must not matter
    engine.run(loader)
    return drawn


def test_resumed_run_draws_and_sees_what_the_full_one_does() -> None:
    full = run()
    assert len(full) == 6
    assert run(iteration=2) == full[2:]
    assert run(iteration=4) == full[4:]
    assert run(until=4) == full[:4]


def test_iterations_ranks_and_seeds_draw_differently() -> None:
    draws = [tuple(draw) for arguments in ({}, {"rank": 1}, {"seed": 1}) for _, draw in run(**arguments)]
    assert len(set(draws)) == 18


def test_batches_of_all_epochs_follow_each_other() -> None:
    """The loader's iterator lives through the epochs, so setting the start at each of them repeats nothing."""
    dataset = Echo()
    expected = list(StreamBatchSampler(dataset, STREAMS, num_iterations=6))
    assert [list(batch) for batch, _ in run()] == expected


# logging


def test_terms_of_the_loss_become_the_output() -> None:
    """At the end of a step, for whoever logs it; the predictions are gone."""
    parts = {
        "segmentation": (SegmentationLoss(), "labeled", 1.0),
        "sdm": (SignedDistanceLoss(), "labeled", 1.0),
        "other": (nn.Identity(), "missing", 0),
    }
    loss = WeightedTerms(
        {
            name: {
                "loss": term,
                "stream": stream,
                "weight": weight,
                "ramped": name == "sdm",
            }
            for name, (term, stream, weight) in parts.items()
        }
    )
    loss.ramp = 0.5
    pred = {"labeled": {"logits": torch.zeros(1, 2, 2, 2, 2), "sdm": torch.full((1, 1, 2, 2, 2), 0.5)}}
    pred["labeled"]["sdm"].requires_grad_()
    target = {"labeled": {"label": torch.zeros(1, 1, 2, 2, 2), "sdm": torch.ones(1, 1, 2, 2, 2)}}

    def step(engine: Engine, batch: Any) -> Any:
        engine.state.output = {"pred": pred, "loss": loss(pred, target)}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    LossTermsHandler(loss).attach(engine)
    (output,) = engine.run([0, 0]).output
    values = {name: float(value) for name, value in output["loss"].items()}
    assert values.keys() == {"loss", "loss_segmentation", "loss_sdm", "weight_segmentation", "weight_sdm"}
    assert (values["loss_sdm"], values["weight_sdm"]) == (0.25, 0.5)
    assert values["loss"] == pytest.approx(values["loss_segmentation"] + 0.125)
    assert list(output) == ["loss"]
    assert not any(isinstance(value, Tensor) and value.requires_grad for value in output["loss"].values())


# ramp-up


def test_the_ramp_is_set_before_each_iteration() -> None:
    loss, seen = WeightedTerms({}), []
    engine = Engine(lambda engine, batch: seen.append((loss.iteration, loss.ramp)))
    RampUpHandler(loss, 3).attach(engine)
    engine.run([0] * 2, max_epochs=2)
    assert seen == [(t, sigmoid_rampup(t, 3)) for t in (1, 2, 3, 4)]
    with pytest.raises(ValueError, match=r"rampup_length .* must not be negative, got -1"):
        RampUpHandler(loss, -1)


# logs


@pytest.mark.parametrize("rank", [0, 1])
def test_logs_open_their_file_when_the_engine_starts_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """In the folder that the run has prepared by then; process 0 only. Every second iteration is due."""
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: rank)
    engine = Engine(lambda engine, batch: [{"loss": {"loss": torch.tensor(float(batch))}}])
    LogsHandler(str(tmp_path / "logs"), "testing", 2).attach(engine)
    assert not (tmp_path / "logs").exists()
    for _ in range(2):
        engine.run([1, 2, 3, 4], max_epochs=1)
    if rank == 1:
        assert not (tmp_path / "logs").exists()
        return
    (file,) = (tmp_path / "logs").iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 2.0), (4, 4.0)] * 2


def test_values_are_fetched_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in ten iterations and at the end of an epoch: each fetch waits for the device."""
    fetches, stack = [], torch.stack
    monkeypatch.setattr(torch, "stack", lambda tensors: fetches.append(len(tensors)) or stack(tensors))
    values = [{"loss": torch.tensor(float(n)), "loss_a": torch.tensor(n / 2.0), "weight_a": n} for n in range(24)]
    monkeypatch.setattr(Tensor, "item", lambda self: pytest.fail("a value was fetched alone"))
    engine = Engine(lambda engine, batch: [{"loss": values[engine.state.iteration - 1]}])
    LogsHandler(str(tmp_path), "testing", 1).attach(engine)
    engine.run([0] * 12, max_epochs=2)
    assert fetches == [20, 4, 16, 8]  # iterations 10, 12, 20 and 24
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name, factor in (("loss", 1.0), ("loss_a", 0.5), ("weight_a", 1.0)):
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(n + 1, factor * n) for n in range(24)]


def test_an_interval_below_one_raises() -> None:
    with pytest.raises(ValueError, match="log_interval must be an integer of at least 1, got 0"):
        LogsHandler("logs", "training", 0)
