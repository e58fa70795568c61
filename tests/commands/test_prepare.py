"""Preparing published datasets: geometry, values, re-runs and errors, on small synthetic sources of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from simcvd_bundle.commands.prepare import Prepare, files
from simcvd_bundle.commands.prepare.left_atrium import crop_left_atrium
from simcvd_bundle.commands.prepare.volumes import crop_box, match_grid

DATA = Path(__file__).parents[3] / "shared" / "data"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def read_pair(output: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, affine = read(output / "images" / f"{name}.nii.gz")
    label, label_affine = read(output / "labels" / f"{name}.nii.gz")
    np.testing.assert_array_equal(affine, label_affine)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    return image, label, affine


def items(output: Path, section: str) -> list[str]:
    index = json.loads((output / "dataset.json").read_text())
    return [Path(item["image"]).name.removesuffix(".nii.gz") for item in index[section]]


def world(affine: np.ndarray, voxel: tuple[int, ...]) -> np.ndarray:
    return (affine @ [*voxel, 1])[:3]


def only_voxel(mask: np.ndarray) -> tuple[int, ...]:
    (voxel,) = np.argwhere(mask)
    return tuple(voxel)


# left atrium
DIRECTION = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
SPACING, ORIGIN = np.array([0.5, 0.6, 2.0]), np.array([10.0, -20.0, 30.0])
SHAPE = (160, 170, 6)
MARK = (75, 80, 2)  # one bright voxel, inside the label


def write_nrrd(path: Path, array: np.ndarray, origin: np.ndarray = ORIGIN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(itk.matrix_from_array(DIRECTION))
    itk.imwrite(image, str(path), compression=True)


def nrrd_scan() -> np.ndarray:
    scan = np.random.default_rng(0).integers(0, 50, SHAPE).astype(np.uint8)
    scan[MARK] = 200
    return scan


def nrrd_label(value: int = 255) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[70:80, 75:90, 1:4] = value
    return label


@pytest.fixture
def raw_la(tmp_path: Path) -> Path:
    source = tmp_path / "raw"
    for name in ("B", "A", "C"):
        write_nrrd(source / name / "lgemri.nrrd", nrrd_scan())
        write_nrrd(source / name / "laendo.nrrd", nrrd_label())
    return source


def test_la_keeps_the_place_of_every_voxel(raw_la: Path, tmp_path: Path) -> None:
    Prepare().la(str(raw_la), str(tmp_path / "out"))
    image, label, affine = read_pair(tmp_path / "out", "A")
    expected_lps = ORIGIN + DIRECTION @ (SPACING * MARK)
    np.testing.assert_allclose(
        world(affine, only_voxel(image == image.max())), expected_lps * [-1, -1, 1], rtol=0, atol=1e-4
    )
    # the box 70..79 x 75..89 grown to 112 starts at 19 and 27, then 15 voxels of margin, z whole
    assert image.shape == label.shape == (112 + 30, 112 + 30, 6)
    assert only_voxel(image == image.max()) == (MARK[0] - 4, MARK[1] - 12, MARK[2])
    assert label.sum() == 10 * 15 * 3
    assert label.max() == 1


def test_la_normalises_over_the_whole_scan(raw_la: Path, tmp_path: Path) -> None:
    Prepare().la(str(raw_la), str(tmp_path / "out"))
    scan = nrrd_scan().astype(float)
    expected = ((scan - scan.mean()) / scan.std())[4:146, 12:154]
    np.testing.assert_allclose(read_pair(tmp_path / "out", "A")[0], expected, rtol=0, atol=1e-4)


def test_la_split_keeps_the_order_of_the_lists(raw_la: Path, tmp_path: Path) -> None:
    write_nrrd(raw_la / "D" / "lgemri.nrrd", nrrd_scan())
    (tmp_path / "train").write_text("C\nA\n\n")
    (tmp_path / "test").write_text("B\n")
    out = tmp_path / "out"
    Prepare().la(str(raw_la), str(out), str(tmp_path / "train"), str(tmp_path / "test"))
    assert items(out, "training") == ["C", "A", "D"]
    assert (items(out, "validation"), items(out, "test")) == ([], ["B"])
    index = json.loads((out / "dataset.json").read_text())
    assert index["training"][2] == {"image": "images/D.nii.gz"}
    assert index["training"][0] == {"image": "images/C.nii.gz", "label": "labels/C.nii.gz"}
    assert (index["numTraining"], index["labels"]) == (3, {"0": "background", "1": "left atrium"})
    assert index["modality"] == {"0": "MRI"}
    assert read(out / "images" / "D.nii.gz")[0].shape == SHAPE
    assert not (out / "labels" / "D.nii.gz").exists()


def test_la_without_a_train_list_trains_on_what_is_not_tested(raw_la: Path, tmp_path: Path) -> None:
    (tmp_path / "test").write_text("B\n")
    Prepare().la(str(raw_la), str(tmp_path / "out"), test_list=str(tmp_path / "test"))
    assert items(tmp_path / "out", "training") == ["A", "C"]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [("A\nX\n", "B\n", r"not found.*\['X'\]"), ("A\nA\n", "", r"listed twice.*\['A'\]"), ("A", "A", "must not share")],
)
def test_lists_that_do_not_fit(raw_la: Path, tmp_path: Path, train: str, test: str, message: str) -> None:
    (tmp_path / "train").write_text(train)
    (tmp_path / "test").write_text(test)
    with pytest.raises(ValueError, match=message):
        Prepare().la(str(raw_la), str(tmp_path / "out"), str(tmp_path / "train"), str(tmp_path / "test"))


def test_listed_case_without_its_label(raw_la: Path, tmp_path: Path) -> None:
    (raw_la / "A" / "laendo.nrrd").unlink()
    (tmp_path / "train").write_text("A\n")
    with pytest.raises(ValueError, match=r"not found with a label.*\['A'\]"):
        Prepare().la(str(raw_la), str(tmp_path / "out"), str(tmp_path / "train"))
    with pytest.raises(FileNotFoundError, match="nowhere is no list"):
        Prepare().la(str(raw_la), str(tmp_path / "out"), str(tmp_path / "nowhere"))


def test_one_bad_case_does_not_cost_the_others(raw_la: Path, tmp_path: Path) -> None:
    write_nrrd(raw_la / "B" / "laendo.nrrd", nrrd_label(value=7))
    write_nrrd(raw_la / "C" / "laendo.nrrd", nrrd_label()[:-1])
    out = tmp_path / "out"
    bad = r"(?s)2 of 3 cases failed.*B: label has the values \[7.*C: The label .*laendo.nrrd .*shape"
    with pytest.raises(ValueError, match=bad):
        Prepare().la(str(raw_la), str(out))
    assert not (out / "dataset.json").exists()
    assert [path.name for path in sorted(out.rglob("*.nii.gz"))] == ["A.nii.gz", "A.nii.gz"]
    write_nrrd(raw_la / "B" / "laendo.nrrd", nrrd_label())
    write_nrrd(raw_la / "C" / "laendo.nrrd", nrrd_label())
    Prepare().la(str(raw_la), str(out))
    assert items(out, "training") == ["A", "B", "C"]


def test_rerun_skips_finished_cases_and_mends_broken_ones(
    raw_la: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    Prepare().la(str(raw_la), str(out))
    first = capsys.readouterr().out
    assert "3 labelled, 0 unlabelled: 3 training, 0 validation, 0 test; 0 skipped" in first
    assert "142 x 142 x 6 to 142 x 142 x 6 voxels" in first
    assert "0.5 x 0.6 x 2.0 mm" in first
    assert f"{100 * 450 / (142 * 142 * 6):.2f} to" in first
    assert str(out / "dataset.json") in first
    broken, sound = out / "images" / "B.nii.gz", out / "images" / "A.nii.gz"
    broken.write_bytes(broken.read_bytes()[:1000])
    before = sound.stat().st_mtime_ns
    Prepare().la(str(raw_la), str(out))
    assert "2 skipped" in capsys.readouterr().out
    assert sound.stat().st_mtime_ns == before
    np.testing.assert_array_equal(read(broken)[0], read(sound)[0])


def test_nothing_half_written_is_left(raw_la: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(image: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(files.nib, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Prepare().la(str(raw_la), str(tmp_path / "out"))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_another_dataset_in_the_output_is_kept(raw_la: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    Prepare().la(str(raw_la), str(out))
    content = (out / "dataset.json").read_text()
    (raw_la / "C" / "lgemri.nrrd").unlink()
    with pytest.raises(ValueError, match=r"lists 1 cases that this run does not have \(images/C"):
        Prepare().la(str(raw_la), str(out))
    (out / "dataset.json").write_text(content.replace('"Left Atrium LGE-MRI"', '"other"'))
    with pytest.raises(ValueError, match="another dataset \\('other'\\)"):
        Prepare().la(str(raw_la), str(out))


def test_output_and_source(raw_la: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is the source itself"):
        Prepare().la(str(raw_la), str(raw_la / ".." / "raw"))
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        Prepare().la(str(tmp_path / "nowhere"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="no case was found"):
        Prepare().la(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_damaged_file(raw_la: Path, tmp_path: Path) -> None:
    path = raw_la / "B" / "lgemri.nrrd"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"1 of 3 cases failed(?s:.*B: .*lgemri\.nrrd)") as error:
        Prepare().la(str(raw_la), str(tmp_path / "out"))
    assert "Traceback" not in str(error.value)


def test_headers_that_disagree(raw_la: Path, tmp_path: Path) -> None:
    write_nrrd(raw_la / "A" / "laendo.nrrd", nrrd_label(), origin=ORIGIN + np.array([0, 0, 2.0]))
    with pytest.raises(ValueError, match=r"A: The label .*laendo.nrrd does not lie on .*corners up to 2 mm apart"):
        Prepare().la(str(raw_la), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((slice(70, 80), slice(75, 90)), (slice(4, 146), slice(12, 154))),  # grown to 112, then 15
        ((slice(30, 150), slice(40, 153)), (slice(15, 165), slice(25, 168))),  # larger than 112 already
        ((slice(0, 5), slice(195, 200)), (slice(0, 74), slice(127, 200))),  # clamped to the scan
    ],
)
def test_crop_left_atrium(box: tuple[slice, slice], expected: tuple[slice, slice]) -> None:
    label = torch.zeros(1, 200, 200, 4)
    label[(slice(None), *box, slice(1, 2))] = 1
    image = MetaTensor(torch.arange(label.numel()).reshape(label.shape), affine=torch.eye(4, dtype=torch.float64))
    cropped, cropped_label = crop_left_atrium(image, MetaTensor(label, affine=image.affine))
    np.testing.assert_array_equal(cropped.numpy(), image.numpy()[(slice(None), *expected)])
    np.testing.assert_array_equal(cropped_label.numpy(), label.numpy()[(slice(None), *expected)])
    np.testing.assert_array_equal(np.asarray(cropped.affine)[:3, 3], [expected[0].start, expected[1].start, 0])


def test_crop_box_of_nothing() -> None:
    with pytest.raises(ValueError, match="label is empty"):
        crop_box(torch.zeros(1, 4, 4, 4), (1, 1, 1), (0, 0, 0))


def test_match_grid_tolerates_rounding_only() -> None:
    image = MetaTensor(torch.zeros(1, 11, 3, 3), affine=torch.eye(4, dtype=torch.float64))
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, 0] = 1.009  # 0.09 voxels at the far corner
    np.testing.assert_array_equal(match_grid(image, MetaTensor(image, affine=affine)).affine, np.eye(4))
    affine[0, 0] = 1.011
    with pytest.raises(ValueError, match=r"0\.11 mm apart"):
        match_grid(image, MetaTensor(image, affine=affine))


# published crops
def write_h5(path: Path, **datasets: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in datasets.items():
            file.create_dataset(key, data=value)


def test_la_h5_changes_nothing_but_the_format(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(12, 10, 8)).astype(np.float32)
    label = (rng.random((12, 10, 8)) > 0.7).astype(np.uint8)
    for name in ("P", "Q"):
        write_h5(tmp_path / "h5" / name / "mri_norm2.h5", image=image, label=label)
    (tmp_path / "test").write_text("P")
    Prepare().la_h5(str(tmp_path / "h5"), str(tmp_path / "out"), test_list=str(tmp_path / "test"))
    prepared, prepared_label, affine = read_pair(tmp_path / "out", "P")
    np.testing.assert_array_equal(prepared, image)
    np.testing.assert_array_equal(prepared_label, label)
    np.testing.assert_array_equal(affine, np.diag([0.625, 0.625, 0.625, 1]))
    assert (items(tmp_path / "out", "training"), items(tmp_path / "out", "test")) == (["Q"], ["P"])
    assert "nominal" in json.loads((tmp_path / "out" / "dataset.json").read_text())["description"]


def test_la_h5_errors_name_case_and_reason(tmp_path: Path) -> None:
    ones, noise = np.ones((4, 4, 4), np.uint8), np.random.default_rng(2).normal(size=(4, 4, 4))
    broken = noise.copy()
    broken[0, 0, 0] = np.nan
    write_h5(tmp_path / "h5" / "constant" / "mri_norm2.h5", image=ones, label=ones)
    write_h5(tmp_path / "h5" / "empty" / "mri_norm2.h5", image=noise, label=0 * ones)
    write_h5(tmp_path / "h5" / "half" / "mri_norm2.h5", image=noise, label=0.5 * ones)
    write_h5(tmp_path / "h5" / "nan" / "mri_norm2.h5", image=broken, label=ones)
    write_h5(tmp_path / "h5" / "none" / "mri_norm2.h5", image=noise)
    with pytest.raises(ValueError, match="5 of 5 cases failed") as error:
        Prepare().la_h5(str(tmp_path / "h5"), str(tmp_path / "out"))
    for expected in (
        "constant: image is constant",
        "empty: label is empty",
        "half: The label half holds 0.5, which is no integer",
        "not finite",
        "none: mri_norm2.h5 has no dataset ['label']",
    ):
        assert expected in str(error.value)


def test_two_sources_never_mix(raw_la: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    Prepare().la(str(raw_la), str(out))
    (out / "dataset.json").unlink()  # as after an interrupted run
    rng = np.random.default_rng(3)
    for name in ("A", "B", "C"):
        datasets = {"image": rng.normal(size=(5, 5, 5)), "label": np.ones((5, 5, 5), np.uint8)}
        write_h5(tmp_path / "h5" / name / "mri_norm2.h5", **datasets)
    Prepare().la_h5(str(tmp_path / "h5"), str(out))
    assert "0 skipped" in capsys.readouterr().out.splitlines()[-6]
    assert read(out / "images" / "A.nii.gz")[0].shape == (5, 5, 5)


# pancreas
CT_SHAPE, CT_SPACING, CT_ORIGIN = (40, 44, 70), (2.0, 2.0, 1.5), (-35.0, -52.0, 100.0)
CT_MARK, CT_DARK = (20, 30, 40), (22, 32, 44)  # far above and below the window; both lie on the grid of 1 mm


def write_series(folder: Path, array: np.ndarray, first_instance_at_top: bool = False, uid: str = "1.2.3.4") -> None:
    """Write array[x, y, z], z ascending in the world, as one axial slice a file."""
    folder.mkdir(parents=True, exist_ok=True)
    io = itk.GDCMImageIO.New()
    io.KeepOriginalUIDOn()
    depth = array.shape[2]
    for z in range(depth):
        image = itk.image_from_array(np.ascontiguousarray(array[:, :, z : z + 1].T.astype(np.int16)))
        image.SetSpacing(list(CT_SPACING))
        image.SetOrigin([*CT_ORIGIN[:2], CT_ORIGIN[2] + CT_SPACING[2] * z])
        instance = depth - z if first_instance_at_top else z + 1
        tags = image.GetMetaDataDictionary()
        for key, value in {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0008|0018": f"{uid}.{z + 1}",
            "0020|0013": str(instance),
            "0008|0021": "20200101",
        }.items():
            tags[key] = value
        itk.imwrite(image, str(folder / f"{uid[-1]}-{instance:03d}.dcm"), imageio=io)


def ct_scan() -> np.ndarray:
    scan = np.random.default_rng(4).integers(0, 100, CT_SHAPE)
    scan[CT_MARK] = 2000
    scan[CT_DARK] = -1000
    return scan


def ct_label() -> np.ndarray:
    label = np.zeros(CT_SHAPE, np.uint8)
    label[CT_MARK[0] - 4 : CT_MARK[0] + 2, CT_MARK[1] - 3 : CT_MARK[1] + 3, CT_MARK[2] - 2 : CT_MARK[2] + 4] = 1
    return label


def ct_affine() -> np.ndarray:
    affine = np.diag([*CT_SPACING, 1.0])
    affine[:3, 3] = CT_ORIGIN
    return LPS_TO_RAS @ affine


@pytest.fixture
def raw_ct(tmp_path: Path) -> tuple[Path, Path]:
    write_series(tmp_path / "ct" / "PANCREAS_0007" / "study" / "series", ct_scan(), first_instance_at_top=True)
    (tmp_path / "labels").mkdir()
    return tmp_path / "ct", tmp_path / "labels"


def save_label(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array, affine), path)


def check_pancreas(out: Path) -> None:
    image, label, affine = read_pair(out, "PANCREAS_0007")
    np.testing.assert_allclose(np.abs(np.diag(affine)), 1, atol=1e-5)
    mark = world(ct_affine(), CT_MARK)  # lies on a voxel of the 1 mm grid
    voxel = tuple(np.rint(np.linalg.inv(affine) @ [*mark, 1])[:3].astype(int))
    assert voxel == only_voxel(image == image.max())
    np.testing.assert_allclose(world(affine, voxel), mark, rtol=0, atol=1e-3)
    # the label's voxels reach 1 mm beyond their centres in x and y, 0.75 mm in z, around this place
    low, high = np.argwhere(label).min(0) - voxel, np.argwhere(label).max(0) - voxel
    np.testing.assert_allclose(low, [-8, -6, -3], atol=1)
    np.testing.assert_allclose(high, [2, 4, 4.5], atol=1)
    np.testing.assert_allclose([image.mean(dtype=float), image.std(dtype=float)], [0, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("flips", [(), (2,), (1,), (0, 1, 2)])
def test_pancreas_places_the_label_by_its_header(
    raw_ct: tuple[Path, Path], tmp_path: Path, flips: tuple[int, ...]
) -> None:
    array, affine = ct_label(), ct_affine()
    for axis in flips:  # stored the other way round, with a header that says so
        array = np.flip(array, axis)
        affine[:3, 3] += affine[:3, axis] * (CT_SHAPE[axis] - 1)
        affine[:3, axis] *= -1
    save_label(raw_ct[1] / "label0007.nii.gz", array, affine)
    Prepare().pancreas(str(raw_ct[0]), str(raw_ct[1]), str(tmp_path / "out"))
    check_pancreas(tmp_path / "out")


@pytest.mark.parametrize("first_instance_at_top", [True, False])
def test_pancreas_places_the_label_by_instance(tmp_path: Path, first_instance_at_top: bool) -> None:
    write_series(tmp_path / "ct" / "PANCREAS_0007", ct_scan(), first_instance_at_top)
    stored = ct_label()[:, :, ::-1] if first_instance_at_top else ct_label()
    (tmp_path / "labels").mkdir()
    save_label(tmp_path / "labels" / "label0007.nii.gz", stored, np.eye(4))
    arguments = (str(tmp_path / "ct"), str(tmp_path / "labels"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"PANCREAS_0007: image and label do not lie on one grid: corners up to"):
        Prepare().pancreas(*arguments)
    Prepare().pancreas(*arguments, label_order="instance")
    check_pancreas(tmp_path / "out")


def test_pancreas_window_and_crop(raw_ct: tuple[Path, Path], tmp_path: Path) -> None:
    save_label(raw_ct[1] / "label0007.nii.gz", ct_label(), ct_affine())
    Prepare().pancreas(str(raw_ct[0]), str(raw_ct[1]), str(tmp_path / "out"))
    image, label, affine = read_pair(tmp_path / "out", "PANCREAS_0007")
    foreground = np.argwhere(label)
    np.testing.assert_array_equal(foreground.min(0), [25, 25, 25])
    np.testing.assert_array_equal((np.array(image.shape) - 1 - foreground.max(0))[[0, 2]], [25, 25])
    last = world(ct_affine(), tuple(np.array(CT_SHAPE) - 1))  # in y the margin ends at the border of the scan
    assert world(affine, tuple(np.array(image.shape) - 1))[1] == pytest.approx(last[1], abs=1e-3)

    def prepared(voxel: tuple[int, ...]) -> float:
        place = np.linalg.inv(affine) @ [*world(ct_affine(), voxel), 1]
        return float(image[tuple(np.rint(place[:3]).astype(int))])

    assert (image.max(), image.min()) == (prepared(CT_MARK), prepared(CT_DARK))
    inside = (CT_MARK[0] - 2, CT_MARK[1] - 2, CT_MARK[2] - 2)
    share = (prepared(inside) - image.min()) / (image.max() - image.min())
    assert share == pytest.approx((ct_scan()[inside] + 125) / 400, abs=1e-4)


def test_pancreas_errors(raw_ct: tuple[Path, Path], tmp_path: Path) -> None:
    images, labels = raw_ct
    arguments = (str(images), str(labels), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"PANCREAS_0007: .*label0007\.nii\.gz does not exist"):
        Prepare().pancreas(*arguments)
    with pytest.raises(ValueError, match="label_order is 'name'"):
        Prepare().pancreas(*arguments, label_order="name")
    save_label(labels / "label0007.nii.gz", ct_label()[:, :, 1:], ct_affine())
    with pytest.raises(ValueError, match=r"PANCREAS_0007: .*one grid: shape \(40, 44, 70\) against \(40, 44, 69\)"):
        Prepare().pancreas(*arguments)
    save_label(labels / "label0007.nii.gz", ct_label(), ct_affine())
    (images / "PANCREAS_0008").mkdir()
    with pytest.raises(ValueError, match=r"1 of 2 cases failed(?s:.*)PANCREAS_0008: no \.dcm file below"):
        Prepare().pancreas(*arguments)
    (images / "PANCREAS_0008").rmdir()
    write_series(images / "PANCREAS_0007" / "study" / "series", ct_scan()[:, :, :2], uid="1.2.3.5")
    with pytest.raises(ValueError, match="holds 2 series"):
        Prepare().pancreas(*arguments[:2], str(tmp_path / "other"))
    write_series(images / "PANCREAS_0007" / "scout", ct_scan()[:, :, :2])
    with pytest.raises(ValueError, match=r"2 folders with \.dcm files below"):
        Prepare().pancreas(*arguments[:2], str(tmp_path / "other"))


# decathlon
@pytest.fixture
def task(tmp_path: Path) -> Path:
    source = tmp_path / "Task99_Test"
    rng = np.random.default_rng(5)
    affine = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    for folder, names in (("imagesTr", ("t_1", "t_2", "._t_1")), ("imagesTs", ("t_3", "._t_3"))):
        (source / folder).mkdir(parents=True)
        for name in names:
            nib.save(nib.Nifti1Image(rng.normal(100, 20, (9, 8, 7)), affine), source / folder / f"{name}.nii.gz")
    (source / "labelsTr").mkdir()
    for name in ("t_1", "t_2"):
        label = rng.integers(0, 3, (9, 8, 7)).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, affine), source / "labelsTr" / f"{name}.nii.gz")
    names = ("._t_1", "t_1", "t_2")
    index = {
        "name": "Test",
        "reference": "somebody",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "a", "2": "b"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": ["./imagesTs/t_3.nii.gz", "./imagesTs/._t_3.nii.gz"],
    }
    (source / "dataset.json").write_text(json.dumps(index))
    return source


def set_index(task: Path, **entries: object) -> None:
    path = task / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_msd(task: Path, tmp_path: Path) -> None:
    Prepare().msd(str(task), str(tmp_path / "out"))
    index = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert index["training"] == [
        {"image": "images/t_1.nii.gz", "label": "labels/t_1.nii.gz"},
        {"image": "images/t_2.nii.gz", "label": "labels/t_2.nii.gz"},
        {"image": "images/t_3.nii.gz"},
    ]
    assert (index["name"], index["reference"], index["labels"]["2"]) == ("Test", "somebody", "b")
    raw, raw_affine = read(task / "imagesTr" / "t_1.nii.gz")
    image, label, affine = read_pair(tmp_path / "out", "t_1")
    np.testing.assert_array_equal(affine, raw_affine)
    np.testing.assert_array_equal(label, read(task / "labelsTr" / "t_1.nii.gz")[0])
    np.testing.assert_allclose(image, (raw - raw.mean()) / raw.std(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "stored", "dtype"),
    [
        ((1, 257), np.int16, np.int16),
        ((205, 500, 600), np.float32, np.int16),
        ((182305689, 182305693), np.uint32, np.int32),
        ((-2, 1), np.int16, np.int16),
        ((1, 2**40 + 1), np.int64, np.int64),
    ],
)
def test_msd_keeps_the_values_of_labels(
    task: Path, tmp_path: Path, values: tuple[int, ...], stored: Any, dtype: Any
) -> None:
    table = np.array([0, *values])
    affine = nib.load(task / "imagesTr" / "t_1.nii.gz").affine
    labels = {"0": "background", **{str(value): f"part {value}" for value in values}}
    set_index(task, labels=labels)
    expected = {}
    for name in ("t_1", "t_2"):
        expected[name] = table[np.random.default_rng(len(name)).integers(0, len(table), (9, 8, 7))]
        nib.save(nib.Nifti1Image(expected[name].astype(stored), affine, dtype=stored),
                 task / "labelsTr" / f"{name}.nii.gz")  # fmt: skip
    out = tmp_path / "out"
    for _ in range(2):
        Prepare().msd(str(task), str(out))
        for name, array in expected.items():
            written = nib.load(out / "labels" / f"{name}.nii.gz")
            assert written.get_data_dtype() == dtype
            np.testing.assert_array_equal(np.asarray(written.dataobj), array)
            # what an earlier version left behind: cut to 8 bits, so that 257 is 1
            cut = nib.Nifti1Image(array.astype(np.uint8), written.affine, written.header)
            cut.header.set_data_dtype(np.uint8)
            nib.save(cut, out / "labels" / f"{name}.nii.gz")
    assert json.loads((out / "dataset.json").read_text())["labels"] == labels
    set_index(task, labels={"background": 0, **{f"part {value}": value for value in values}})  # nnU-Net's order
    Prepare().msd(str(task), str(tmp_path / "again"))
    assert json.loads((tmp_path / "again" / "dataset.json").read_text())["labels"] == labels
    set_index(task, labels=[])
    with pytest.raises(ValueError, match=r"dataset\.json names no label values: write"):
        Prepare().msd(str(task), str(out))


def test_msd_clips_ct(task: Path, tmp_path: Path) -> None:
    set_index(task, modality={"0": "CT"})
    Prepare().msd(str(task), str(tmp_path / "out"))
    raw = read(task / "imagesTr" / "t_2.nii.gz")[0]
    clipped = np.clip(raw, *np.percentile(raw, (0.5, 99.5)))
    expected = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(read_pair(tmp_path / "out", "t_2")[0], expected, rtol=0, atol=1e-4)


def test_msd_errors(task: Path, tmp_path: Path) -> None:
    arguments = (str(task), str(tmp_path / "out"))
    set_index(task, labels={"0": "background", "1": "a"})
    with pytest.raises(ValueError, match=r"2 of 3 cases failed(?s:.*)t_2: label has the values \[2\]"):
        Prepare().msd(*arguments)
    set_index(task, labels={"0": "background", "1": "a", "2": "b"})
    four = nib.Nifti1Image(np.random.default_rng(6).normal(size=(4, 4, 4, 2)), np.eye(4))
    nib.save(four, task / "imagesTs" / "t_3.nii.gz")
    arguments = (str(task), str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"t_3: .*t_3.nii.gz has 2 channels: one is expected"):
        Prepare().msd(*arguments)
    set_index(task, test=["./imagesTs/t_1.nii.gz"])
    with pytest.raises(ValueError, match=r"same name: \['t_1'\]"):
        Prepare().msd(*arguments)
    set_index(task, test=["./imagesTs/missing.nii.gz"])
    with pytest.raises(ValueError, match=r"missing: .*missing\.nii\.gz does not exist"):
        Prepare().msd(*arguments)
    (task / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"has no \['labels', 'modality', 'training'\]"):
        Prepare().msd(*arguments)
    (task / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"dataset\.json does not exist"):
        Prepare().msd(*arguments)


# real data
@pytest.mark.skipif(not (DATA / "la_raw_sample").is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    "name",
    [
        "1D7CUD1955YZPGK8XHJX",
        pytest.param("06SR5RBREL16DQ6M8LWS", marks=pytest.mark.slow),
        pytest.param("0RZDK210BSMWAA6467LU", marks=pytest.mark.slow),
    ],
)
def test_real_scan_reproduces_the_published_crop(tmp_path: Path, name: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).symlink_to(DATA / "la_raw_sample" / name)
    Prepare().la(str(tmp_path / "raw"), str(tmp_path / "out"))
    image, label, affine = read_pair(tmp_path / "out", name)
    published, _ = read(DATA / "la" / "images" / f"{name}.nii.gz")
    published_label, _ = read(DATA / "la" / "labels" / f"{name}.nii.gz")
    # the label's first voxel is the same voxel in both; the crops around it differ by their margins
    start = np.argwhere(label).min(0)
    published_start = np.argwhere(published_label).min(0)
    before = np.minimum(start, published_start)
    after = np.minimum(label.shape - start, published_label.shape - published_start)
    ours = tuple(slice(a - b, a + c) for a, b, c in zip(start, before, after, strict=True))
    theirs = tuple(slice(a - b, a + c) for a, b, c in zip(published_start, before, after, strict=True))
    np.testing.assert_array_equal(label[ours], published_label[theirs])
    assert label.sum() == published_label.sum()
    # each scan was z-scored, so the two differ by a scale and an offset only
    x, y = image[ours].ravel().astype(float), published[theirs].ravel().astype(float)
    scale, offset = np.polyfit(x, y, 1)
    assert scale > 0
    np.testing.assert_allclose(scale * x + offset, y, rtol=0, atol=1e-4)
    raw = itk.imread(str(DATA / "la_raw_sample" / name / "laendo.nrrd"))
    first = np.argwhere(itk.array_view_from_image(raw).T).min(0)
    physical = np.array(raw.TransformIndexToPhysicalPoint([int(i) for i in first])) * [-1, -1, 1]
    np.testing.assert_allclose(world(affine, tuple(start)), physical, rtol=0, atol=1e-3)
    assert image.shape[2] == published.shape[2]
    np.testing.assert_allclose(image.shape[:2], published.shape[:2], atol=11)


@pytest.mark.parametrize(("value", "message"), [(0, "label is empty"), (2, "values other than"), (1, None)])
def test_a_finished_case_with_another_label_is_no_finished_case(
    tmp_path: Path, value: int, message: str | None
) -> None:
    """Empty, or with a value that the recipe does not name, though others of its values are named."""
    image, label = torch.rand(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    label[0, 0, 0, :2] = torch.tensor([min(value, 1), value])
    case = files.Case("a", lambda: (MetaTensor(image), MetaTensor(label)))
    recipe = files.Recipe("tag", "name", "", "", "MR", {0: "background", 1: "organ"})
    files.write_case(tmp_path, case, recipe)
    if message is None:
        assert files.inspect_case(tmp_path, case, recipe).foreground == pytest.approx(2 / 64)
        return
    with pytest.raises(ValueError, match=message):
        files.inspect_case(tmp_path, case, recipe)
