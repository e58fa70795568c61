"""Several processes train, validate and evaluate as one; gradients against one process that computes all shares."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from conftest import ROOT, TINY, Run, make_workflow, run_workflow
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from processes import run_ranks
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from simcvd_bundle.data.batches import prepare_batch
from simcvd_bundle.data.cache import DiskCacheDataset
from simcvd_bundle.losses import BoundaryContrastiveLoss, SegmentationLoss
from simcvd_bundle.networks.vnet import VNet
from simcvd_bundle.training.streams import RandomStreamsHandler
from simcvd_bundle.training.teacher import BatchNormStatisticsHandler
from simcvd_bundle.utils.distributed import from_rank_0, gather_rows, join
from simcvd_bundle.utils.errors import show_root_cause

MULTI = ("train.json", "multi_gpu_train.json")
STATES = ("network_def", "head_def", "teacher")
TWO_AND_FOUR = [2, pytest.param(4, marks=pytest.mark.slow)]
NO_VALIDATION: dict[str, Any] = {"validate::dataset::data": []}


class Recorder:
    """Handler that saves what a process saw and computed: states, batch and gradients of each iteration."""

    def __init__(self, file: str, **modules: nn.Module) -> None:
        self.file = file
        self.modules = modules
        self.record: dict[str, Any] = {"start": [], "batch": [], "gradients": []}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: self.record["start"].append(self.states()))
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.after_backward)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def states(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {key: tensor.clone() for key, tensor in module.state_dict().items()}
            for name, module in self.modules.items()
        }

    def after_backward(self, engine: Engine) -> None:
        self.record["batch"].append(dict(engine.state.batch))
        self.record["gradients"].append(gradients(self.modules))

    def save(self, engine: Engine) -> None:
        torch.save({**self.record, "end": self.states(), "iteration": engine.state.iteration}, self.file)


def gradients(modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": p.grad.clone()
        for name, module in modules.items()
        for key, p in module.named_parameters()
        if p.grad is not None
    }


def recorder(file: Path) -> str:
    """Overlay that puts a ``Recorder`` into a training."""
    item = {"_target_": "test_distributed.Recorder", "file": str(file), **{name: f"@{name}" for name in STATES}}
    overlay = file.with_suffix(".json")
    overlay.write_text(json.dumps({"+train::handlers": [item]}))
    return str(overlay)


def train_rank(rank: int, dataset_dir: Path, folder: Path, settings: dict[str, Any], files: tuple[str, ...]) -> None:
    """One process on a machine of its own: nothing but the network connects the ranks."""
    overlay = recorder(folder / f"{rank}.pt")
    run_workflow(*files, overlay, dataset_dir=dataset_dir, folder=folder / f"rank{rank}", **settings)


def train(
    world_size: int, dataset_dir: Path, folder: Path, files: tuple[str, ...] = MULTI, **settings: Any
) -> list[dict[str, Any]]:
    """Records of all ranks."""
    folder.mkdir(exist_ok=True)
    run_ranks(train_rank, world_size, dataset_dir, folder, settings, files)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Difference of two sets of gradients relative to their norm, the larger one of network and head."""
    assert a.keys() == b.keys()
    parts: list[list[str]] = [[name for name in a if name.startswith(module)] for module in STATES[:2]]
    vectors = [[torch.cat([x[name].flatten() for name in names]) for x in (a, b)] for names in parts]
    return max(float((x - y).norm() / x.norm()) for x, y in vectors)


def gradients_one_after_another(records: list[dict[str, Any]], dataset_dir: Path, folder: Path) -> dict[str, Tensor]:
    """Gradients of the same shares in this process: equation (6) with one contrastive sum over all of them."""
    workflow = make_workflow("train.json", dataset_dir=dataset_dir, folder=folder, **NO_VALIDATION)
    workflow.initialize()
    get = workflow.parser.get_parsed_content
    modules = {name: get(name).train() for name in STATES}
    for name, module in modules.items():
        module.load_state_dict(records[0]["start"][0][name])
    for part, module in (("network", "network_def"), ("head", "head_def")):
        modules["teacher"][part].load_state_dict(modules[module].state_dict())
    loss, inferer = get("loss"), get("train::inferer")
    contrastive, weight = loss.losses["contrastive"], loss.weights["contrastive"]
    loss.weights["contrastive"] = 0  # its entries are taken away below, and the sum goes over those of all shares
    total: Any = 0.0
    sets: dict[str, list[Tensor]] = {"embeddings": [], "teacher_embeddings": []}
    for rank, record in enumerate(records):
        RandomStreamsHandler(get("train::sampler"), 0, rank)(SimpleNamespace(state=SimpleNamespace(iteration=1)))  # type: ignore[arg-type]
        inputs, target = prepare_batch(record["batch"][0])
        pred = inferer(inputs, modules["network_def"])
        for name, parts in sets.items():
            parts.append(pred["unlabeled"].pop(name))
        total = total + loss(pred, target) / len(records)
    contrast = contrastive({name: torch.cat(parts) for name, parts in sets.items()}, {})
    (total + weight * contrast).backward()
    return gradients({name: modules[name] for name in STATES[:2]})


@pytest.mark.parametrize("world_size", TWO_AND_FOUR)
def test_gradients_are_those_of_one_process_that_computes_all_shares(
    dataset_dir: Path, tmp_path: Path, world_size: int
) -> None:
    """Batch norm, noise and dropout included, as drawn by each rank; gathering the negatives is what makes it one."""
    settings = {**NO_VALIDATION, "iterations": 1, "rampup_length": 0}
    records = train(world_size, dataset_dir, tmp_path / "gathered", **settings)
    assert all(distance(records[0]["gradients"][0], record["gradients"][0]) == 0 for record in records)
    expected = gradients_one_after_another(records, dataset_dir, tmp_path)
    assert distance(expected, records[0]["gradients"][0]) < 1e-5
    if world_size == 4:
        own = {"loss::terms::contrastive::loss::_target_": "test_distributed.OwnNegatives"}
        records = train(world_size, dataset_dir, tmp_path / "own", **settings, **own)
        assert distance(expected, records[0]["gradients"][0]) > 1e-2


def network_without_batch_norm(**arguments: Any) -> VNet:
    network = VNet(**arguments, dropout=0.0)
    for block in network.modules():
        if hasattr(block, "adn"):
            block.adn.N = nn.Identity()
    return network


def without_dice() -> SegmentationLoss:
    loss = SegmentationLoss()
    loss.dice_ce.lambda_dice = 0.0
    return loss


class OwnNegatives(nn.Module):
    """The contrast of a process that takes only its own slices as negatives."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, pred: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        similarities = pred["embeddings"] @ pred["teacher_embeddings"].detach().T / self.temperature
        own = torch.arange(len(similarities))
        return F.cross_entropy(similarities, own) + F.cross_entropy(similarities.T, own)


def test_without_what_belongs_to_a_process_gradients_are_those_of_an_ordinary_run(
    dataset_dir: Path, tmp_path: Path
) -> None:
    """No batch norm, dropout, noise or Dice: two processes equal one with twice the batch, bit for bit in its batch."""
    settings = {
        **NO_VALIDATION, "iterations": 1, "rampup_length": 0, "head_dropout": 0.0, "train::views": [],
        "network_def::_target_": "test_distributed.network_without_batch_norm",
        "loss::terms::segmentation::loss::_target_": "test_distributed.without_dice",
    }  # fmt: skip
    shares = train(2, dataset_dir, tmp_path / "two", **settings, labeled_batch_size=1, unlabeled_batch_size=2)
    (tmp_path / "one").mkdir()
    train_rank(0, dataset_dir, tmp_path / "one", {**settings, "labeled_batch_size": 2, "unlabeled_batch_size": 4},
               ("train.json",))  # fmt: skip
    whole = torch.load(tmp_path / "one" / "0.pt", weights_only=True)
    for stream, entry in (("labeled", "image"), ("labeled", "sdm"), ("unlabeled", "image")):
        parts = [record["batch"][0][stream][entry] for record in shares]
        assert torch.equal(torch.cat(parts), whole["batch"][0][stream][entry])
    assert distance(whole["gradients"][0], shares[1]["gradients"][0]) < 1e-5


@pytest.mark.parametrize("world_size", TWO_AND_FOUR)
def test_all_ranks_end_alike_and_rank_0_alone_writes(dataset_dir: Path, tmp_path: Path, world_size: int) -> None:
    """Machines without a shared disk; one validation case; then resumed with two processes."""
    settings = {"epoch_length": 2, "val_interval": 1, "rampup_length": 3, "lr_step": 5}
    records = train(world_size, dataset_dir, tmp_path, iterations=4, **settings)
    for name in STATES:  # parameters and batch-norm statistics
        for record in records[1:]:
            for key, tensor in records[0]["end"][name].items():
                assert torch.equal(tensor, record["end"][name][key]), f"{name}.{key}"
    weights = torch.load(tmp_path / "rank0" / "models" / "model.pt", weights_only=True)
    assert weights.keys() == records[0]["end"]["network_def"].keys()  # without the wrapper's prefix
    within = [record["start"][1]["teacher"]["network.encoder.0.0.adn.N.running_mean"] for record in records]
    assert not torch.equal(within[0], within[1])  # in the middle of an epoch
    assert sorted(path.name for path in (tmp_path / "rank0").iterdir()) == ["cache", "models", "run"]
    for rank in range(1, world_size):
        assert [path.name for path in (tmp_path / f"rank{rank}").iterdir()] == ["cache"]
    resumed = train(2, dataset_dir, tmp_path, iterations=6, resume=True, **settings)
    for record in resumed:
        assert record["iteration"] == 6
        for name in STATES:
            for key, tensor in records[0]["end"][name].items():
                assert torch.equal(tensor, record["start"][0][name][key]), f"{name}.{key}"
    assert not (tmp_path / "rank1" / "run").exists()
    if world_size == 2:  # as if it had not stopped
        whole = train(2, dataset_dir, tmp_path / "whole", iterations=6, **settings)
        for name in STATES:
            for key, tensor in whole[1]["end"][name].items():
                assert torch.equal(tensor, resumed[0]["end"][name][key]), f"{name}.{key}"


def evaluate_rank(rank: int, dataset_dir: Path, folder: Path, settings: dict[str, Any]) -> None:
    run_workflow(
        *MULTI, "evaluate.json", dataset_dir=dataset_dir, folder=folder, output_dir=str(folder / f"rank{rank}"),
        **settings,
    )  # fmt: skip


@pytest.mark.parametrize("section", ["labeled", "validation"])
def test_evaluation_in_two_processes_gives_the_files_of_one(
    run_bundle: Run, dataset_dir: Path, trained_run: Path, tmp_path: Path, section: str
) -> None:
    """Three cases for two processes, and one case for two."""
    settings = {"eval_section": section, "num_labeled": 3, "weights": str(trained_run / "models" / "model.pt")}
    run_bundle("train.json", "evaluate.json", output_dir=str(tmp_path / "one"), **settings)
    run_ranks(evaluate_rank, 2, dataset_dir, tmp_path, settings)
    for name in ("per_case.csv", "summary.json"):
        assert (tmp_path / "rank0" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not (tmp_path / "rank1").exists()


def validate_rank(rank: int, dataset_dir: Path, folder: Path, items: list[dict[str, str]]) -> None:
    workflow = make_workflow(*MULTI, dataset_dir=dataset_dir, folder=folder, **{"validate::dataset::data": items})
    workflow.initialize()
    workflow.run()
    state = workflow.parser.get_parsed_content("validate::evaluator").state
    cases = len(workflow.parser.get_parsed_content("validate::dataloader"))
    (folder / f"{rank}.json").write_text(json.dumps([cases, state.metrics["val_mean_dice"], state.best_metric]))
    workflow.finalize()


def test_validation_cases_are_split_and_their_mean_is_over_all(
    run_bundle: Run, dataset_dir: Path, tmp_path: Path
) -> None:
    """Three cases for two processes: weighted by case, not by process."""
    items = [{key: str(dataset_dir / f"{key}_{n}.nii.gz") for key in ("image", "label")} for n in (5, 6, 7)]
    run_ranks(validate_rank, 2, dataset_dir, tmp_path, items)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [cases for cases, *_ in results] == [2, 1]
    assert results[0][1:] == results[1][1:]
    run_bundle(
        "train.json", "evaluate.json", output_dir=str(tmp_path / "one"), inference_mode="fast",
        weights=str(tmp_path / "models" / "model.pt"), **{"validate::dataset::data": items},
    )  # fmt: skip
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    assert results[0][1] == pytest.approx(summary["overall"]["dice"]["mean"], abs=1e-5)


# parts


def contrast_rank(rank: int, folder: Path, student: Tensor, teacher: Tensor) -> None:
    join("gloo")
    rows = student.clone().requires_grad_()
    first = rank * 3
    part = slice(first, first + 3)
    loss = BoundaryContrastiveLoss(0.5)({"embeddings": rows[part], "teacher_embeddings": teacher[part]}, {})
    loss.backward()
    total = rows.grad.clone()  # type: ignore[union-attr]
    distributed.all_reduce(total)
    distributed.all_reduce(loss.detach_())
    torch.save((loss / 2, total / 2, gather_rows(torch.full((2, 1), float(rank)))), folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_gathered_contrast_is_that_of_all_rows(tmp_path: Path) -> None:
    """Value and gradient, averaged over the processes."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (F.normalize(torch.randn(6, 4, generator=generator), dim=1) for _ in range(2))
    run_ranks(contrast_rank, 2, tmp_path, student, teacher)
    rows = student.clone().requires_grad_()
    expected = BoundaryContrastiveLoss(0.5)({"embeddings": rows, "teacher_embeddings": teacher}, {})
    expected.backward()
    for rank in range(2):
        loss, gradient, gathered = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(gradient, rows.grad)
        assert gathered.flatten().tolist() == [0, 0, 1, 1]


def parts_rank(rank: int, folder: Path) -> None:
    join("gloo")
    norms = [nn.BatchNorm1d(2), nn.BatchNorm1d(1)]
    for norm in norms:
        norm.running_mean.fill_(rank + 1.0)  # type: ignore[union-attr]
        norm.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    BatchNormStatisticsHandler(norms)(Engine(lambda engine, batch: None))
    assert norms[0].running_mean.tolist() == [1.5, 1.5]  # type: ignore[union-attr]
    assert norms[1].running_mean.tolist() == [1.5]  # type: ignore[union-attr]
    assert norms[1].num_batches_tracked == 7
    assert from_rank_0(lambda: {"rank": torch.tensor(rank)}) == {"rank": torch.tensor(0)}

    def fail() -> None:
        raise FileNotFoundError(f"no file in process {rank}")

    expected = (FileNotFoundError, "no file in process 0") if rank == 0 else (RuntimeError, "Process 0 failed: no file")
    with pytest.raises(expected[0], match=expected[1]):
        from_rank_0(fail)
    distributed.destroy_process_group()


def test_statistics_are_averaged_and_process_0_speaks_for_all(tmp_path: Path) -> None:
    run_ranks(parts_rank, 2, tmp_path)


def slurm_rank(rank: int, folder: Path) -> None:
    os.environ |= {"SLURM_JOB_ID": "7", "SLURM_LOCALID": "0"}  # one task, in which torchrun started both
    join("gloo")
    seen = [idist.get_local_rank(), idist.get_nproc_per_node(), os.environ["LOCAL_RANK"], os.environ["SLURM_JOB_ID"]]
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


def test_in_a_slurm_job_torchruns_numbers_count(tmp_path: Path) -> None:
    run_ranks(slurm_rank, 2, tmp_path)
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [
        [0, 2, "0", "7"], [1, 2, "1", "7"],
    ]  # fmt: skip


def count_reads(data: dict[str, Any]) -> dict[str, Any]:
    with (Path(os.environ["READS"]) / f"{os.environ['RANK']}").open("a") as file:
        file.write(f"{data['image']}\n")
    return {"image": torch.arange(8.0).reshape(1, 2, 2, 2)}


def cache_rank(rank: int, folder: Path, shared: bool) -> None:
    from monai.transforms import Compose, Lambda

    join("gloo")
    os.environ["READS"] = str(folder / "reads")
    machine = folder / ("cache" if shared else f"cache{rank // 2}")
    data = [{"image": number} for number in range(10)]
    dataset = DiskCacheDataset(data, Compose([Lambda(count_reads)]), str(machine), progress=False)
    assert all(file.is_file() for file in dataset.files)
    distributed.destroy_process_group()


@pytest.mark.parametrize("shared", [True, False])
def test_cases_are_prepared_once_a_disk(tmp_path: Path, shared: bool) -> None:
    """Two machines with two processes each, with and without a shared disk: each process does its part."""
    (tmp_path / "reads").mkdir()
    run_ranks(cache_rank, 4, tmp_path, shared, per_machine=2)
    reads = [[int(n) for n in (tmp_path / "reads" / f"{rank}").read_text().split()] for rank in range(4)]
    machines = [[n for part in reads for n in part]] if shared else [reads[0] + reads[1], reads[2] + reads[3]]
    for machine in machines:
        assert sorted(machine) == list(range(10))
    assert all(2 <= len(part) <= 6 for part in reads)


ENDING = """
import sys
import torch
from torch import distributed
from simcvd_bundle.utils import join, leave

join("gloo")
torch.group = distributed.group.WORLD  # as DistributedDataParallel keeps it
sys.setswitchinterval(1000)  # a busy machine, where gloo's threads wait long for the interpreter
for _ in range(50):
    distributed.broadcast(torch.ones(1000), 0)
leave()
"""


@pytest.mark.slow
def test_a_process_ends_after_gloo_let_go_of_its_tensors(tmp_path: Path) -> None:
    """Without the wait in ``leave`` 48 of 60 tries ended by SIGABRT, with it none."""
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_torchrun_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match=r"RANK, .* are not set: start with `torchrun --nproc_per_node=N"):
        join("gloo")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(
        RuntimeError, match=r"process RANK, from 0, of WORLD_SIZE, but RANK=1, WORLD_SIZE=1: start with"
    ):
        join("gloo")
    for name, value in (("RANK", "one"), ("LOCAL_RANK", "-1"), ("MASTER_PORT", "$PORT"), ("WORLD_SIZE", "2.0")):
        monkeypatch.setenv(name, value)
        with pytest.raises(RuntimeError, match=re.escape(f"{name}={value}: start with")):
            join("gloo")
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RuntimeError, match=r"Process 1 of this machine .* as 1 are visible: set --nproc_per_node"):
        join("nccl")


def test_an_error_names_its_rank_here_and_in_the_summary_of_torchrun(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "4"), ("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))):
        monkeypatch.setenv(name, value)
    error = RuntimeError("Failed to evaluate ConfigExpression")
    error.__cause__ = ValueError("num_labeled is 99")
    show_root_cause(RuntimeError, error, None)
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error in rank 1 of 4: num_labeled is 99"
    assert "ValueError: num_labeled is 99" in (tmp_path / "error.json").read_text()


class Killed:
    """Handler that kills its process, as the system does when memory runs out."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.iteration), self)

    def __call__(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_ends_all_and_one_process_continues(
    run_bundle: Run, dataset_dir: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "kill.json"
    item = {"_target_": "test_distributed.Killed", "_disabled_": "$@rank != 1", "iteration": 5}
    overlay.write_text(json.dumps({"+train::handlers": [item]}))
    settings = {
        **TINY, "dataset_dir": dataset_dir, "output_dir": tmp_path / "run", "ckpt_dir": tmp_path / "models",
        "cache_dir": tmp_path / "cache", "iterations": 8,
    }  # fmt: skip
    configs = [ROOT / "configs" / "train.json", ROOT / "configs" / "multi_gpu_train.json", overlay]
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "monai.bundle", "run", "training",
         "--config_file", str([str(file) for file in configs]),
         *(part for name, value in settings.items() for part in (f"--{name}", str(value)))],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{Path(__file__).parent}",
                           "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, encoding="utf-8", timeout=600, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert re.search(r"rank\s*: 1 .*\n.*exitcode\s*: -9", result.stderr), result.stderr
    assert not (tmp_path / "models" / "model.pt").exists()
    run_bundle("train.json", iterations=8, resume=True)
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "checkpoint_8.pt", weights_only=True)
    assert checkpoint["trainer"]["iteration"] == 8
