"""The pre-training workflow as a user runs it, its queue and its pass."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, Run, run_workflow
from processes import run_ranks
from torch import nn

from simcvd_bundle.networks import VNetEncoder
from simcvd_bundle.training import ContrastiveInferer, KeyQueue, KeyQueueHandler

CONFIG = "pretrain.json"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(folder / "model.pt", weights_only=True)
    return content


def test_pretraining_writes_an_encoder_and_leaves_the_weights_of_the_bundle(
    run_bundle: Run, subjects_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    workflow = run_bundle(CONFIG, dataset_dir=subjects_dir, ckpt_dir=str(tmp_path / "run"))
    assert f"Wrote the trained weights: {tmp_path / 'run' / 'model.pt'}" in caplog.messages  # named once
    student = workflow.parser.get_parsed_content("network_def").state_dict()
    written = weights(tmp_path / "run")
    assert written.keys() == student.keys()
    assert {name.split(".")[0] for name in written} == {"encoder", "downs", "head"}
    assert all(torch.equal(written[name], student[name]) for name in student)
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"checkpoints", "tensorboard", "model.pt"}
    logged = workflow.parser.get_parsed_content("train::trainer").state.output[0]["loss"]
    assert logged.keys() == {"loss", "loss_contrastive", "weight_contrastive"}


def test_by_default_the_weights_lie_in_the_run_only() -> None:
    assert json.loads((ROOT / "configs" / CONFIG).read_text())["ckpt_dir"] == "@output_dir"


@pytest.mark.parametrize("settings", [{"pairs": "view"}, {"pairs": "position"}, {"queue_size": 6}], ids=str)
def test_pairs_and_queue(run_bundle: Run, subjects_dir: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """The teacher moves with a queue only, which then holds the last six keys."""
    workflow = run_bundle(CONFIG, dataset_dir=subjects_dir, **settings)
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "checkpoint_2.pt", weights_only=True)
    name = "network.encoder.0.0.conv.weight"
    queue = checkpoint["queue"]
    if "queue_size" in settings:
        assert int(queue["seen"]) == 8
        torch.testing.assert_close(queue["keys"].norm(dim=1), torch.ones(6))
        decay = min(1 - 1 / 2, 0.99)
        assert not torch.equal(checkpoint["teacher"][name], checkpoint["student"][name])
        assert decay == 0.5
    else:
        assert int(queue["seen"]) == 0
    assert workflow.parser.get_parsed_content("train::trainer").state.iteration == 2


def test_same_seed_same_weights(run_bundle: Run, subjects_dir: Path, tmp_path: Path) -> None:
    found = []
    for number, (seed, workers) in enumerate([(3, 0), (3, 2), (4, 0)]):
        folder = tmp_path / str(number)
        run_bundle(CONFIG, dataset_dir=subjects_dir, seed=seed, num_workers=workers, output_dir=str(folder))
        found.append(weights(folder))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


@pytest.mark.parametrize("queue_size", [0, 6])
def test_resume_equals_the_uninterrupted_run(
    run_bundle: Run, subjects_dir: Path, tmp_path: Path, queue_size: int
) -> None:
    whole = {"iterations": 6, "epoch_length": 2, "queue_size": queue_size, "dataset_dir": subjects_dir}
    run_bundle(CONFIG, **whole, output_dir=str(tmp_path / "whole"))
    interrupted = {**whole, "output_dir": str(tmp_path / "parts")}
    overlay = tmp_path / "interrupt.json"
    overlay.write_text('{"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": 5}]}')
    with pytest.raises(KeyboardInterrupt):
        run_bundle(CONFIG, str(overlay), **interrupted)
    run_bundle(CONFIG, **interrupted, resume=True)
    checkpoints = [
        torch.load(tmp_path / name / "checkpoints" / "checkpoint_6.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for part in ("student", "teacher", "queue"):
        for name, tensor in checkpoints[0][part].items():
            assert torch.equal(tensor, checkpoints[1][part][name]), f"{part}.{name}"
    assert checkpoints[0]["lr_scheduler"] == checkpoints[1]["lr_scheduler"]


def test_the_learning_rate_warms_up_and_ends_at_zero(run_bundle: Run, subjects_dir: Path) -> None:
    workflow = run_bundle(CONFIG, dataset_dir=subjects_dir, iterations=10, epoch_length=5)
    get = workflow.parser.get_parsed_content
    factor = get("lr_scheduler").lr_lambdas[0]
    assert get("warmup_length") == 1
    assert [factor(0), factor(1), factor(10)] == pytest.approx([0.1, 1.0, 0.0])
    assert factor(5.5) == pytest.approx(0.5)
    assert get("optimizer").param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_fine_tuning_starts_from_the_encoder(
    run_bundle: Run, subjects_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_bundle(CONFIG, dataset_dir=subjects_dir, output_dir=str(tmp_path / "pre"))
    with caplog.at_level("INFO"):
        workflow = run_bundle("train.json", pretrained=str(tmp_path / "pre" / "model.pt"), learning_rate=1e-12,
                              **{"validate::dataset::data": []})  # fmt: skip
    assert re.search(
        r"Loaded \d+ of .*: network\.downs \(\d+\), network\.encoder \(\d+\); left out: .*network.head", caplog.text
    )
    start = weights(tmp_path / "pre")
    student = dict(workflow.parser.get_parsed_content("network_def").named_parameters())
    assert all(torch.allclose(parameter, start[name]) for name, parameter in student.items() if name in start)
    assert any(name in start for name in student)


@pytest.mark.parametrize("file", ["model.pt", "checkpoints/checkpoint_2.pt"])
def test_pretraining_continues_another_with_its_head(
    run_bundle: Run, subjects_dir: Path, tmp_path: Path, file: str
) -> None:
    """As MICLe does after SimCLR; from the weights or a checkpoint."""
    run_bundle(CONFIG, dataset_dir=subjects_dir, pairs="view", output_dir=str(tmp_path / "view"))
    workflow = run_bundle(
        CONFIG, dataset_dir=subjects_dir, pretrained=str(tmp_path / "view" / file), learning_rate=1e-12
    )
    start = {f"network.{name}": tensor for name, tensor in weights(tmp_path / "view").items()}
    student = dict(workflow.parser.get_parsed_content("student").named_parameters())
    assert all(torch.allclose(parameter, start[name]) for name, parameter in student.items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": "subject"}, "pairs must be one of view, patient, position"),
        ({"batch_size": 13}, "takes 13 subjects, but the datalist has 12"),
        ({"queue_size": -1}, "queue_size is -1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"head_widths": []}, "head_widths must be"),
        ({"crop_size": [16, 16]}, "crop_size is .* must be three integers"),
        ({"warmup_lenght": 3}, "did you mean 'warmup_length'"),
    ],
    ids=str,
)
def test_bad_values_are_named(run_bundle: Run, subjects_dir: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((RuntimeError, ValueError, IndexError)) as error:
        run_bundle(CONFIG, dataset_dir=subjects_dir, **settings)
    causes = [str(error.value)]
    cause = error.value.__cause__
    while cause is not None:
        causes.append(str(cause))
        cause = cause.__cause__
    assert any(re.search(message, text) for text in causes), causes


def test_patient_pairs_need_subjects(run_bundle: Run) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle(CONFIG)  # the data of this fixture names none
    assert re.search(r"has no `subject`: .*set pairs to 'view'", str(error.value.__cause__))


def pretrain_rank(rank: int, subjects_dir: Path, folder: Path) -> None:
    workflow = run_workflow(
        CONFIG, "multi_gpu_train.json", dataset_dir=subjects_dir, folder=folder, queue_size=6, device="cpu",
        output_dir=str(folder / f"run{rank}"), ckpt_dir=str(folder / f"run{rank}"),
    )  # fmt: skip
    state = {name: workflow.parser.get_parsed_content(name).state_dict() for name in ("student", "teacher", "queue")}
    torch.save(state, folder / f"state{rank}.pt")


def test_processes_end_alike(subjects_dir: Path, tmp_path: Path) -> None:
    run_ranks(pretrain_rank, 2, subjects_dir, tmp_path)
    first, second = (torch.load(tmp_path / f"state{rank}.pt", weights_only=True) for rank in range(2))
    for part in first:
        for name, tensor in first[part].items():
            torch.testing.assert_close(tensor, second[part][name], msg=f"{part}.{name}")
    assert int(first["queue"]["seen"]) == 2 * 2 * 2 * 2  # iterations, processes, pairs, partners


# the queue and the pass


def test_the_queue_keeps_the_last_keys() -> None:
    queue, pushed = KeyQueue(5, 2), []
    for number, count in enumerate([2, 2, 3, 7, 1]):
        keys = torch.arange(2.0 * count).reshape(count, 2) + 100 * number
        queue.push(keys)
        pushed += keys.tolist()
        assert sorted(queue.filled().tolist()) == sorted(pushed[-5:])


def test_the_queue_is_read_before_the_keys_of_the_batch_enter() -> None:
    torch.manual_seed(0)
    teacher = nn.ModuleDict({"network": VNetEncoder([4], normalize=True, base_channels=2)})
    queue = KeyQueue(4, 4)
    inferer = ContrastiveInferer(teacher, queue, "float32")
    pred = inferer({"pairs": {"image": torch.randn(4, 1, 16, 16, 16)}}, teacher["network"])
    assert pred["pairs"]["queue"].shape == (0, 4)
    torch.testing.assert_close(pred["pairs"]["embeddings"], pred["pairs"]["keys"])
    assert pred["pairs"]["embeddings"].requires_grad
    assert not pred["pairs"]["keys"].requires_grad
    engine: Any = SimpleNamespace(state=SimpleNamespace(output={"pred": pred}))
    KeyQueueHandler(queue)(engine)
    assert torch.equal(queue.filled(), pred["pairs"]["keys"])
    assert (
        "keys"
        not in ContrastiveInferer(teacher, KeyQueue(0, 4))(
            {"pairs": {"image": torch.randn(4, 1, 16, 16, 16)}}, teacher["network"]
        )["pairs"]
    )


def test_what_training_and_pretraining_share_is_the_same() -> None:
    train, pretrain = (json.loads((ROOT / "configs" / name).read_text()) for name in ("train.json", CONFIG))
    for name in ("image_transforms", "normalize", "in_channels", "orientation", "spacing", "strides", "kernel_sizes"):
        assert train[name] == pretrain[name], name
    assert train["train"]["trainer"] == pretrain["train"]["trainer"]
