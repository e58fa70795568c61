"""Writing beside the computation: what is written, how much waits, and where errors go."""

from __future__ import annotations

import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from simcvd_bundle.inference.batch import BackgroundWriter, Failures, SaveInBackgroundd


def test_files_are_those_of_save_imaged(tmp_path: Path) -> None:
    affine = torch.diag(torch.tensor([-0.5, 0.6, 2.0, 1.0], dtype=torch.float64))
    writer = BackgroundWriter(Failures())
    for number in range(9):  # more than wait at once
        mask = MetaTensor(
            torch.full((1, 3, 4, 5), number), affine=affine, meta={"filename_or_obj": f"scan_{number}.nii"}
        )
        for name, save in (("plain", SaveImaged), ("background", SaveInBackgroundd)):
            first = (writer,) if save is SaveInBackgroundd else ()
            folder = str(tmp_path / name)
            save(*first, "pred", output_dir=folder, output_postfix="seg", separate_folder=False)({"pred": mask})
    writer.finish()
    files = sorted(p.name for p in (tmp_path / "plain").iterdir())
    assert len(files) == 9
    assert files == sorted(p.name for p in (tmp_path / "background").iterdir())
    for file in files:
        plain, background = (nib.load(tmp_path / name / file) for name in ("plain", "background"))
        assert np.array_equal(plain.get_fdata(), background.get_fdata())
        assert np.array_equal(plain.affine, background.affine)


def test_a_file_that_cannot_be_written_fails_its_case_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are written, and nothing half written stays."""
    save = nib.save

    def full_disk(image: nib.Nifti1Image, path: Path) -> None:
        if "scan_1" in path.name:
            path.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        save(image, path)

    monkeypatch.setattr(nib, "save", full_disk)
    failures = Failures()
    writer = BackgroundWriter(failures, max_pending=1)
    for number in range(3):
        mask = MetaTensor(torch.zeros(1, 3, 4, 5), meta={"filename_or_obj": f"/in/scan_{number}.nii"})
        keys = {"output_dir": str(tmp_path), "output_postfix": "seg", "separate_folder": False}
        SaveInBackgroundd(writer, "pred", **keys)({"image": mask, "pred": mask})
    writer.finish()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan_0_seg.nii.gz", "scan_2_seg.nii.gz"]
    message = "1 cases failed, all others.*/in/scan_1.nii: a result cannot be written: OSError.*No space left on device"
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        failures.finish()


def test_computation_goes_on_until_too_much_waits() -> None:
    gate = threading.Event()
    writer = BackgroundWriter(Failures(), num_threads=1, max_pending=2)
    for _ in range(2):
        writer.submit("case", gate.wait, 60)
    assert [future.done() for _, future in writer.pending] == [False, False]
    third = threading.Thread(target=writer.submit, args=("case", gate.wait, 60))
    third.start()
    third.join(0.2)
    assert third.is_alive()
    gate.set()
    third.join(60)
    assert not third.is_alive()
    writer.finish()
