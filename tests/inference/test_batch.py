"""Writing beside the computation: what is written, how much waits, and where errors go."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from simcvd_bundle.data.masks import is_prediction
from simcvd_bundle.inference.batch import Results
from simcvd_bundle.inference.masks import MaskAndMapsd
from simcvd_bundle.inference.saving import SaveResultd


def test_files_are_those_of_save_imaged(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([-0.5, 0.6, 2.0, 1.0], dtype=torch.float64))
    results = Results()
    for number in range(9):  # more than wait at once
        mask = MetaTensor(
            torch.full((1, 3, 4, 5), number), affine=affine, meta={"filename_or_obj": f"scan_{number}.nii"}
        )
        SaveImaged("pred", output_dir=str(tmp_path / "plain"), output_postfix="seg", separate_folder=False)(
            {"pred": mask}
        )
        SaveResultd(results, "pred", output_dir=str(tmp_path / "background"), postfix="seg")({"pred": mask})
    results.finish()
    files = sorted(p.name for p in (tmp_path / "plain").iterdir())
    assert len(files) == 9
    assert files == sorted(p.name for p in (tmp_path / "background").iterdir())
    for file in files:
        plain, background = (nib.load(tmp_path / name / file) for name in ("plain", "background"))
        assert np.array_equal(plain.get_fdata(), background.get_fdata())
        assert np.array_equal(plain.affine, background.affine)


def test_names_are_those_of_the_scans_and_the_files_are_marked(tmp_path: Path) -> None:
    """A UID keeps its last number, one suffix goes in any case, sub-folders are repeated below a common folder."""
    names = {"1.3.46.670589.11.20.1": "1.3.46.670589.11.20.1", "X.NII.GZ": "X", "p/a.nii.mha": "p/a.nii", "v.2": "v.2"}
    results = Results()
    save = SaveResultd(results, "pred", output_dir=str(tmp_path), postfix="seg", data_root_dir="/in")
    for name in names:
        save({"pred": MetaTensor(torch.ones(1, 3, 4, 5), meta={"filename_or_obj": f"/in/{name}"})})
    results.finish()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).as_posix() for path in files} == {f"{n}_seg.nii.gz" for n in names.values()}
    assert all(map(is_prediction, files))
    assert not is_prediction(tmp_path / "absent_seg.nii.gz")


def test_a_file_that_cannot_be_written_fails_its_case_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are written, and nothing half written stays."""
    save = nib.save

    def full_disk(image: nib.Nifti1Image, path: Path) -> None:
        if "scan_1" in path.name:
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        save(image, path)

    monkeypatch.setattr(nib, "save", full_disk)
    results = Results(max_pending=1)
    for number in range(3):
        mask = MetaTensor(torch.zeros(1, 3, 4, 5), meta={"filename_or_obj": f"/in/scan_{number}.nii"})
        SaveResultd(results, "pred", output_dir=str(tmp_path), postfix="seg")({"image": mask, "pred": mask})
    message = "1 cases failed, all others.*/in/scan_1.nii: a result cannot be written: OSError.*No space left on device"
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        results.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan_0_seg.nii.gz", "scan_2_seg.nii.gz"]


def test_what_waits_is_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """In main memory; the image and the rest of a case are free at once. The meta device stands for a GPU."""
    results = Results()
    waiting: list[dict[str, Any]] = []
    monkeypatch.setattr(results, "submit", lambda case, file, function, data: waiting.append(data))
    moved = MetaTensor(torch.ones(1, 2, 2, 2))
    pred = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "a.nii"})
    monkeypatch.setattr(pred, "cpu", lambda: moved)
    image = torch.zeros(1, 2, 2, 2, device="meta")
    assert (
        SaveResultd(results, "pred", "out", "seg")({"image": image, "pred": pred, "probability": image})["pred"] is pred
    )
    assert [list(data) for data in waiting] == [["pred"]]
    assert waiting[0]["pred"] is moved


def test_computation_goes_on_until_too_much_waits() -> None:
    gate = threading.Event()
    results = Results(num_threads=1, max_pending=2)
    for _ in range(2):
        results.submit("case", Path("a.nii.gz"), gate.wait, 60)
    assert [future.done() for _, future in results.pending] == [False, False]
    third = threading.Thread(target=results.submit, args=("case", Path("a.nii.gz"), gate.wait, 60))
    third.start()
    third.join(0.2)
    assert third.is_alive()
    gate.set()
    third.join(60)
    assert not third.is_alive()
    results.finish()


def test_mask_and_maps_are_the_parts_of_a_prediction() -> None:
    """Two classes: three probabilities, then two signed distance maps."""
    pred = torch.rand(5, 2, 3, 4)
    pred[:, 0, 0, 0] = torch.tensor([0.1, 0.2, 0.7, 0.9, 0.8])
    parts = MaskAndMapsd("pred", num_classes=2, keep_probability=True)({"pred": pred, "image": 1})
    assert parts.keys() == {"pred", "image", "probability", "sdm"}
    assert (parts["pred"].dtype, parts["pred"].shape, int(parts["pred"][0, 0, 0, 0])) == (torch.uint8, (1, 2, 3, 4), 2)
    assert torch.equal(parts["probability"], pred[1:3])
    assert torch.equal(parts["sdm"], pred[3:])
    assert MaskAndMapsd("pred", num_classes=4)({"pred": pred}).keys() == {"pred"}
