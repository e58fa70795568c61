"""The train workflow as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TERMS, TINY, Run
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simcvd_bundle.utils.devices import processor


def terms(workflow: ConfigWorkflow) -> dict[str, torch.Tensor]:
    """Values of the terms in the last iteration."""
    values = workflow.parser.get_parsed_content("train::trainer").state.output[0]["loss"]
    return {name.removeprefix("loss_"): value for name, value in values.items() if name.startswith("loss_")}


def test_training_writes_weights_checkpoints_and_terms(
    run_bundle: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        workflow = run_bundle("train.json")
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    student = workflow.parser.get_parsed_content("network_def").state_dict()
    assert weights.keys() == student.keys()
    assert all(torch.equal(weights[name], student[name]) for name in student)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()].count("checkpoint_2.pt") == 1
    assert "labeled images=2, unlabeled images=3" in caplog.text
    assert f"Training on cpu ({processor()}) in float32" in caplog.text
    for name in ("student", "teacher"):
        assert re.search(rf"Validation Dice of the {name} after 2 iterations: \d\.\d+", caplog.text)
    assert str(tmp_path / "models" / "model.pt") in caplog.text
    scalars = set()
    for file in (tmp_path / "run" / "tensorboard").iterdir():
        events = EventAccumulator(str(file))
        events.Reload()
        scalars |= set(events.Tags()["scalars"])
    assert {f"loss_{t}" for t in TERMS} | {f"weight_{t}" for t in TERMS} <= scalars
    assert {"val_mean_dice", "teacher_mean_dice"} <= scalars


def test_same_seed_same_weights(run_bundle: Run, tmp_path: Path) -> None:
    weights = []
    for number, (seed, workers) in enumerate([(3, 0), (3, 2), (4, 0)]):
        folder = tmp_path / str(number)
        run_bundle("train.json", seed=seed, num_workers=workers, ckpt_dir=str(folder), output_dir=str(folder / "run"))
        weights.append(torch.load(folder / "model.pt", weights_only=True))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_resume_equals_the_uninterrupted_run(run_bundle: Run, tmp_path: Path) -> None:
    whole = {"iterations": 6, "epoch_length": 2, "val_interval": 1}
    run_bundle("train.json", **whole, output_dir=str(tmp_path / "whole"))
    interrupted = {**whole, "output_dir": str(tmp_path / "parts")}
    overlay = tmp_path / "interrupt.json"
    overlay.write_text('{"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": 5}]}')
    with pytest.raises(KeyboardInterrupt):
        run_bundle("train.json", str(overlay), **interrupted)
    assert sorted(p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()) == [
        "checkpoint_2.pt",
        "checkpoint_4.pt",
    ]
    run_bundle("train.json", **interrupted, resume=True)
    checkpoints = [
        torch.load(tmp_path / name / "checkpoints" / "checkpoint_6.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for part in ("student", "teacher"):
        for name, tensor in checkpoints[0][part].items():
            assert torch.equal(tensor, checkpoints[1][part][name]), f"{part}.{name}"
    momenta = [[s["momentum_buffer"] for s in c["optimizer"]["state"].values()] for c in checkpoints]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))
    for part in ("lr_scheduler", "student_best_metric", "teacher_best_metric", "trainer"):
        assert checkpoints[0][part] == checkpoints[1][part]


@pytest.mark.parametrize("interrupted_at", [3, 5])
def test_resume_across_the_stages_of_copy_paste(run_bundle: Run, tmp_path: Path, interrupted_at: int) -> None:
    """Three labelled iterations and three of copy-paste; the checkpoint lies before or behind the change."""
    whole = {"iterations": 6, "epoch_length": 2, "pretrain_iterations": 3, "foreground_prob": 0.5,
             "validate::dataset::data": []}  # fmt: skip
    overlay = tmp_path / "interrupt.json"
    run_bundle("train.json", "method_copy_paste.json", **whole, output_dir=str(tmp_path / "whole"))
    parts = {**whole, "output_dir": str(tmp_path / "parts")}
    overlay.write_text(
        json.dumps({"+train::handlers": [{"_target_": "conftest.Interrupt", "iteration": interrupted_at}]})
    )
    with pytest.raises(KeyboardInterrupt):
        run_bundle("train.json", "method_copy_paste.json", str(overlay), **parts)
    last = torch.load(tmp_path / "parts" / "checkpoints" / f"checkpoint_{interrupted_at - 1}.pt", weights_only=True)
    copied = all(torch.equal(tensor, last["student"][name]) for name, tensor in last["teacher"].items())
    assert copied == (interrupted_at == 3)  # no teacher is needed in the first stage
    workflow = run_bundle("train.json", "method_copy_paste.json", **parts, resume=True)
    assert terms(workflow).keys() == {"copy_paste"}
    checkpoints = [
        torch.load(tmp_path / name / "checkpoints" / "checkpoint_6.pt", weights_only=True)
        for name in ("whole", "parts")
    ]
    for part in ("student", "teacher"):
        for name, tensor in checkpoints[0][part].items():
            assert torch.equal(tensor, checkpoints[1][part][name]), f"{part}.{name}"
    momenta = [[s["momentum_buffer"] for s in c["optimizer"]["state"].values()] for c in checkpoints]
    assert all(torch.equal(a, b) for a, b in zip(*momenta, strict=True))


def test_copy_paste_without_unlabelled_patches_is_an_error(run_bundle: Run) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", "method_copy_paste.json", unlabeled_batch_size=0)
    assert "as many labelled as unlabelled patches, got 2 and 0: set labeled_batch_size" in str(error.value.__cause__)


def test_resume_without_checkpoint_is_an_error(run_bundle: Run, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        run_bundle("train.json", resume=True)
    assert "No checkpoint to resume in" in str(error.value.__cause__)
    assert not (tmp_path / "models" / "model.pt").exists()


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(
    run_bundle: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_bundle("train.json")
    newest = tmp_path / "run" / "checkpoints" / "checkpoint_2.pt"
    good = newest.read_bytes()
    original = torch.load(newest, weights_only=True)["student"]
    newest.write_bytes(good[: len(good) // 2])
    with caplog.at_level("INFO"):
        run_bundle("train.json", resume=True)
    assert "checkpoint_2.pt cannot be read" in caplog.text
    assert "checkpoint_1.pt at iteration 1" in caplog.text
    repaired = torch.load(newest, weights_only=True)["student"]
    assert all(torch.equal(repaired[name], tensor) for name, tensor in original.items())


def test_second_run_keeps_what_the_first_wrote(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json")
    first = (tmp_path / "models" / "model.pt").read_bytes()
    run_bundle("train.json", seed=1)
    assert (tmp_path / "models" / "model.pt").read_bytes() != first
    assert (tmp_path / "run" / "previous_1" / "model.pt").read_bytes() == first
    assert [p.read_bytes() for p in (tmp_path / "models" / "replaced").iterdir()] == [first]


def test_a_trainer_built_before_the_run_keeps_its_tensorboard_file(dataset_dir: Path, tmp_path: Path) -> None:
    """The former run moves away before the writer of the next one opens its file."""
    for _ in range(2):
        workflow = ConfigWorkflow(
            config_file=str(ROOT / "configs" / "train.json"), workflow_type="train", logging_file=False,
            **{**TINY, "dataset_dir": str(dataset_dir), "output_dir": str(tmp_path), "ckpt_dir": str(tmp_path / "m"),
               "cache_dir": str(tmp_path / "c"), "validate::dataset::data": []},
        )  # fmt: skip
        workflow.initialize()
        workflow.parser.get_parsed_content("train::trainer")
        workflow.run()
    for folder in (tmp_path / "tensorboard", tmp_path / "previous_1" / "tensorboard"):
        scalars = []
        for file in folder.iterdir():  # one of the training and one of each validation
            events = EventAccumulator(str(file))
            events.Reload()
            scalars += [len(events.Scalars(tag)) for tag in events.Tags()["scalars"] if tag == "loss"]
        assert scalars == [2]


def test_without_unlabeled_cases(run_bundle: Run, dataset_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [{k: str(dataset_dir / f"{k}_{n}.nii.gz") for k in ("image", "label")} for n in range(3)]
    with caplog.at_level("INFO"):
        workflow = run_bundle("train.json", **{"train::dataset::data": items})
    assert "labeled images=3, unlabeled images=0" in caplog.text
    assert "No unlabeled image" in caplog.text
    assert terms(workflow).keys() == TERMS


def test_without_validation_cases(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train.json", **{"validate::dataset::data": []})
    assert (tmp_path / "models" / "model.pt").is_file()


def test_schedules_follow_the_number_of_iterations(run_bundle: Run) -> None:
    workflow = run_bundle("train.json", iterations=4, **{"train::trainer::max_epochs": 6})
    get = workflow.parser.get_parsed_content
    assert [get(name) for name in ("total_iterations", "rampup_length", "lr_step")] == [6, 6, 3]
    assert get("loss").ramp == 1.0
    assert get("optimizer").param_groups[0]["lr"] == pytest.approx(0.0001)


def test_several_classes_and_channels(run_bundle: Run, dataset_dir: Path, tmp_path: Path) -> None:
    items = []
    for number in range(3):
        image, label = (nib.load(dataset_dir / f"{kind}_{number}.nii.gz") for kind in ("image", "label"))
        values = np.asarray(label.dataobj)
        values[12:] *= 2  # the second half of the box is another class
        two_channels = np.stack([np.asarray(image.dataobj), np.asarray(image.dataobj) ** 2], -1)
        item = {"image": str(tmp_path / f"i{number}.nii.gz"), "label": str(tmp_path / f"l{number}.nii.gz")}
        nib.save(nib.Nifti1Image(two_channels, image.affine), item["image"])
        nib.save(nib.Nifti1Image(values, image.affine), item["label"])
        items.append(item)
    workflow = run_bundle(
        "train.json",
        class_names={"1": "left", "2": "right"},
        in_channels=2,
        **{"train::dataset::data": [*items[:2], {"image": items[2]["image"]}], "validate::dataset::data": items[2:]},
    )
    assert terms(workflow).keys() == TERMS
    assert all(torch.isfinite(term) for term in terms(workflow).values())
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert weights["segmentation.weight"].shape[0] == 3
    assert weights["sdm.weight"].shape[0] == 2


def test_fine_tuning_starts_student_and_teacher_from_the_weights(run_bundle: Run, tmp_path: Path) -> None:
    """With another number of classes; next to no learning rate leaves the start as it is."""
    run_bundle("train.json", **{"validate::dataset::data": []})
    weights = tmp_path / "first.pt"
    (tmp_path / "models" / "model.pt").rename(weights)
    workflow = run_bundle("train.json", pretrained=str(weights), class_names={"1": "ball", "2": "cube"},
                          learning_rate=1e-12, **{"validate::dataset::data": []})  # fmt: skip
    start = torch.load(weights, weights_only=True)
    student, teacher = (
        dict(workflow.parser.get_parsed_content(n)["network"].named_parameters()) for n in ("student", "teacher")
    )
    for name, parameter in student.items():
        torch.testing.assert_close(teacher[name], parameter)
        assert parameter.shape[0] == 3 or name.startswith("sdm") or torch.allclose(parameter, start[name])
    assert student["segmentation.weight"].shape[0] == 3
