"""The student-teacher pass of training, and the two ways to segment a whole volume."""

from __future__ import annotations

import copy
import math
import re
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simcvd_bundle.inference.windows import WholeSliceInferer, WindowInferer, make_inferer
from simcvd_bundle.losses import BoundaryContrastiveLoss, ConsistencyLoss, PairwiseDistillationLoss
from simcvd_bundle.networks.heads import ProjectionHead
from simcvd_bundle.networks.vnet import VNet, VNetOutput
from simcvd_bundle.training.student_teacher import StudentTeacherInferer

TEACHER_KEYS = {"teacher_logits", "teacher_sdm", "features", "teacher_features"}
EMBEDDINGS = {"embeddings", "teacher_embeddings"}


class Probe(nn.Module):
    """A voxel-wise stand-in for the V-Net that remembers its inputs and outputs, and whether it had gradients."""

    def __init__(self, factor: float = 0.5) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen: list[Tensor] = []
        self.returned: list[VNetOutput] = []
        self.had_grad: list[bool] = []

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        self.seen.append(x.detach().clone())
        self.had_grad.append(torch.is_grad_enabled())
        mean = x.mean(1, keepdim=True) * self.factor
        output = VNetOutput(torch.cat([-mean, mean, mean**2], 1), torch.cat([mean, -mean], 1).tanh(), mean[..., ::2])
        self.returned.append(output)
        return output if return_all else output.logits


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def probes(labeled: int = 2, **arguments: Any) -> tuple[StudentTeacherInferer, Probe, Probe]:
    """An inferer whose heads only flatten the slices, its student and its teacher."""
    student, teacher = Probe(), Probe(0.8)
    return StudentTeacherInferer(teacher, nn.Flatten(), nn.Flatten(), labeled, **arguments), student, teacher


def by_first_value(rows: Tensor) -> Tensor:
    return rows[rows[:, 0].argsort()]


# student and teacher


def test_labelled_patches_stay_clean_and_come_first() -> None:
    inferer, student, teacher = probes()
    inputs = random(5, 1, 6, 6, 4)
    pred = inferer(inputs, student)
    assert torch.equal(student.seen[0][:2], inputs[:2])
    assert student.seen[0].shape == inputs.shape
    assert teacher.seen[0].shape == (3, 1, 6, 6, 4)
    assert len(student.seen) == len(teacher.seen) == 1  # one pass each
    torch.testing.assert_close(pred["logits"], student.returned[0].logits)
    torch.testing.assert_close(pred["sdm"], student.returned[0].sdm)
    torch.testing.assert_close(pred["features"], student.returned[0].features[2:])
    torch.testing.assert_close(pred["teacher_logits"], teacher.returned[0].logits)
    torch.testing.assert_close(pred["teacher_sdm"], teacher.returned[0].sdm)
    torch.testing.assert_close(pred["teacher_features"], teacher.returned[0].features)


def test_noise_is_clipped_and_drawn_anew_for_each_network() -> None:
    """N(0, 0.1) within +-0.2, that is clipped at two standard deviations, 4.6 % of it."""
    torch.manual_seed(0)
    inferer, student, teacher = probes()
    inputs = torch.zeros(4, 1, 16, 16, 16)
    inferer(inputs, student)
    noises = [student.seen[0][2:], teacher.seen[0]]
    for noise in noises:
        assert float(noise.max()) == pytest.approx(0.2)
        assert float(noise.min()) == pytest.approx(-0.2)
        assert float((noise.abs() >= 0.2).float().mean()) == pytest.approx(0.0455, abs=0.01)
        assert float(noise.std()) == pytest.approx(0.096, abs=0.005)  # of the clipped normal distribution
    assert abs(float((noises[0] * noises[1]).mean())) < 5e-4  # independent


def test_noise_is_an_argument() -> None:
    inferer, student, teacher = probes(noise_std=0.0)
    inputs = random(4, 1, 4, 4, 4)
    inferer(inputs, student)
    assert torch.equal(student.seen[0], inputs)
    assert torch.equal(teacher.seen[0], inputs[2:])
    inferer, student, _ = probes(noise_std=10.0, noise_clip=3.0)
    inferer(torch.zeros(4, 1, 8, 8, 8), student)
    assert (float(student.seen[0].min()), float(student.seen[0].max())) == (-3.0, 3.0)


def test_teacher_runs_without_gradient() -> None:
    inferer, student, teacher = probes()
    inputs = random(4, 1, 4, 4, 4)
    pred = inferer(inputs, student)
    assert student.had_grad == [True]
    assert teacher.had_grad == [False]
    assert {key for key, value in pred.items() if value.requires_grad} == {"logits", "sdm", "features", "embeddings"}


@pytest.fixture(scope="module")
def real_pass() -> tuple[VNet, ProjectionHead, nn.ModuleList, dict[str, Tensor]]:
    """One pass of tiny real networks: student, head, teachers and the prediction."""
    torch.manual_seed(0)
    student, head = VNet(base_channels=2, dropout=0.0), ProjectionHead(pool_size=4, widths=(8, 8, 4))
    teachers = nn.ModuleList([copy.deepcopy(student), copy.deepcopy(head)])
    inferer = StudentTeacherInferer(teachers[0], head, teachers[1], labeled_batch_size=1)
    return student, head, teachers, inferer(random(3, 1, 16, 16, 32), student)


@pytest.mark.parametrize("term", ["contrastive", "distillation", "consistency"])
def test_each_term_moves_the_student_and_no_teacher(
    real_pass: tuple[VNet, ProjectionHead, nn.ModuleList, dict[str, Tensor]], term: str
) -> None:
    """The teacher's parameters do require gradients here: nothing but the inferer keeps them out."""
    student, head, teachers, pred = real_pass
    losses = {
        "contrastive": (BoundaryContrastiveLoss(), ("embeddings", "teacher_embeddings")),
        "distillation": (PairwiseDistillationLoss(), ("features", "teacher_features")),
        "consistency": (ConsistencyLoss(), ("logits", "sdm", "teacher_logits", "teacher_sdm")),
    }
    loss, keys = losses[term]
    modules = nn.ModuleList([student, head, teachers])
    modules.zero_grad()
    tensors = [pred[key][1:] if key in ("logits", "sdm") else pred[key] for key in keys]
    loss(*tensors).backward(retain_graph=True)
    assert student.encoder[0][0].conv.weight.grad is not None
    assert student.encoder[0][0].conv.weight.grad.abs().sum() > 0
    assert (head.mlp[0].weight.grad is not None) == (term == "contrastive")
    assert (student.sdm.weight.grad is not None) == (term != "distillation")
    assert all(p.grad is None for p in teachers.parameters())
    assert not any(pred[key].requires_grad for key in keys if key.startswith("teacher"))


def test_supervised_batch_has_the_supervised_keys_only() -> None:
    inferer, student, teacher = probes(labeled=3)
    inputs = random(3, 1, 4, 4, 4)
    assert set(inferer(inputs, student)) == {"logits", "sdm"}
    assert torch.equal(student.seen[0], inputs)
    assert teacher.seen == []


def test_keys_without_projection() -> None:
    inferer, student, _ = probes(project=False)
    assert set(inferer(random(4, 1, 4, 4, 4), student)) == {"logits", "sdm"} | TEACHER_KEYS
    inferer, student, _ = probes()
    assert set(inferer(random(4, 1, 4, 4, 4), student)) == {"logits", "sdm"} | TEACHER_KEYS | EMBEDDINGS


@pytest.mark.parametrize(("boundary_map", "channels"), [("sdm", [1, 2]), ("probability", [1, 2])])
def test_boundary_slices(boundary_map: str, channels: list[int]) -> None:
    """Slice j of volume i lies at row i * D + j and holds image (mean of its channels) plus scaled map, per class."""
    inferer, student, _ = probes(boundary_map=boundary_map, sdm_scale=0.3)
    view = random(2, 2, 5, 6, 3)
    output = student(view, return_all=True)
    slices = inferer.boundary_slices(view, output)
    assert slices.shape == (2 * 3, 2, 5, 6)
    probability = output.logits.exp() / output.logits.exp().sum(1, keepdim=True)
    for i, j, c in product(range(2), range(3), range(2)):
        added = output.sdm[i, c] if boundary_map == "sdm" else probability[i, channels[c]]
        expected = (view[i, 0, :, :, j] + view[i, 1, :, :, j]) / 2 + 0.3 * added[..., j]
        torch.testing.assert_close(slices[i * 3 + j, c], expected)


def test_embeddings_are_those_of_the_view_each_network_saw() -> None:
    """All slices of the unlabelled patches in some order, the same one for student and teacher."""
    inferer, student, teacher = probes()
    pred = inferer(random(4, 1, 3, 3, 5), student)
    unlabeled = VNetOutput(*(output[2:] for output in student.returned[0]))
    own = inferer.boundary_slices(student.seen[0][2:], unlabeled).flatten(1)
    theirs = inferer.boundary_slices(teacher.seen[0], teacher.returned[0]).flatten(1)
    assert pred["embeddings"].shape == pred["teacher_embeddings"].shape == (2 * 5, 2 * 3 * 3)
    torch.testing.assert_close(by_first_value(pred["embeddings"]), by_first_value(own))
    place = torch.cdist(pred["embeddings"], own).argmin(1)
    torch.testing.assert_close(pred["teacher_embeddings"], theirs[place])


def test_each_side_has_its_own_head() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, slices: Tensor) -> Tensor:
            return torch.full((len(slices), 1), self.value)

    inferer = StudentTeacherInferer(Probe(), Constant(1.0), Constant(2.0), 1)
    pred = inferer(random(2, 1, 4, 4, 4), Probe())
    assert pred["embeddings"].unique().tolist() == [1.0]
    assert pred["teacher_embeddings"].unique().tolist() == [2.0]


@pytest.mark.parametrize(("num_slices", "expected"), [(3, 3), (10, 10), (99, 10), (None, 10)])
def test_number_of_slices(num_slices: int | None, expected: int) -> None:
    """Drawn without replacement, anew at every call, never more than there are."""
    inferer, student, _ = probes(num_slices=num_slices, noise_std=0.0)
    inputs = random(4, 1, 3, 3, 5)
    torch.manual_seed(0)
    first, second = (inferer(inputs, student)["embeddings"] for _ in range(2))
    assert len(first.unique(dim=0)) == len(first) == expected
    assert torch.allclose(first, second) == (num_slices is None)  # all of them come in the order of the batch


def test_bfloat16_runs_the_networks_low_and_the_rest_in_float32() -> None:
    torch.manual_seed(0)
    student, head = VNet(base_channels=1), ProjectionHead(pool_size=4, widths=(8, 8, 4))
    teachers = copy.deepcopy(student), copy.deepcopy(head)
    inferer = StudentTeacherInferer(teachers[0], head, teachers[1], labeled_batch_size=1, precision="bfloat16")
    pred = inferer(random(3, 1, 16, 16, 16), student)
    assert {pred[key].dtype for key in ("logits", "sdm", "teacher_logits", "teacher_sdm")} == {torch.bfloat16}
    assert {pred[key].dtype for key in EMBEDDINGS} == {torch.float32}
    assert all(value.isfinite().all() for value in pred.values())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_unknown_precision_raises(precision: str) -> None:
    message = re.escape(f"precision must be one of ['bfloat16', 'float16', 'float32'], got {precision!r}.")
    inputs = torch.zeros(2, 1, 4, 4, 4)
    with pytest.raises(ValueError, match=message):
        probes(precision=precision)[0](inputs, Probe())
    with pytest.raises(ValueError, match=message):
        make_inferer("fast", (4, 4, 4), (2, 2, 2), precision=precision)(inputs, Probe())


def test_unknown_boundary_map_raises() -> None:
    with pytest.raises(ValueError, match="boundary_map must be 'sdm' or 'probability', got 'logits'"):
        probes(boundary_map="logits")


# sliding window


class Places(nn.Module):
    """Remembers where each window begins, given an image whose voxels hold their own coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[tuple[int, ...]] = []
        self.sizes: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.starts += [tuple(int(v) for v in window[:, 0, 0, 0]) for window in x]
        self.sizes.add(tuple(x.shape[2:]))
        return torch.zeros(len(x), 2, *x.shape[2:])


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        # the paper's windows along each axis (the other axes as small as possible); 160 x 150 x 88 voxels make 48
        ((160, 4, 88), (112, 4, 80), (18, 4, 4)),
        ((4, 150, 80), (4, 112, 80), (4, 18, 4)),
        ((112, 4, 96), (96, 4, 96), (16, 4, 16)),
        # small ones: last window pushed back, stride 1, stride as long as the window, all axes at once
        ((11, 9, 7), (6, 4, 3), (4, 3, 2)),
        ((7, 6, 10), (4, 5, 5), (1, 1, 5)),
    ],
)
def test_windows_are_those_of_the_published_codes(
    size: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    """ceil((size - window) / stride) + 1 along each axis, the last one pushed back to the border."""
    image = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in size), indexing="ij"))[None]
    counts = [math.ceil((n - w) / s) + 1 for n, w, s in zip(size, window, stride, strict=True)]
    along = [
        [min(k * s, n - w) for k in range(count)]
        for n, w, s, count in zip(size, window, stride, counts, strict=True)
    ]  # fmt: skip
    network = Places()
    WindowInferer(window, stride)(image, network)
    assert sorted(network.starts) == sorted(product(*along))
    assert network.sizes == {window}


@pytest.mark.parametrize("window", [7, 80, 96, 112])
def test_any_stride_survives_the_detour_over_monais_overlap(window: int) -> None:
    """The second window begins one stride after the first, for every stride from 1 to the window's length."""
    size = 2 * window + 1
    image = torch.arange(float(size)).view(1, 1, size, 1, 1).repeat(1, 3, 1, 1, 1)
    for stride in range(1, window + 1):
        network = Places()
        WindowInferer((window, 1, 1), (stride, 1, 1), sw_batch_size=200)(image, network)
        assert sorted(start[0] for start in network.starts)[1] == stride


class Gain(nn.Module):
    """Logits (0, g x) with a gain g that depends on the first voxel of the window; the SDM is tanh(g x)."""

    def forward(self, x: Tensor, return_all: bool = False) -> Any:
        scaled = 3 * x[:, :, :1, :1, :1] * x
        logits = torch.cat([torch.zeros_like(x), scaled], 1)
        return VNetOutput(logits, scaled.tanh(), scaled) if return_all else logits


@pytest.mark.parametrize("with_sdm", [False, True])
def test_window_averages_probabilities(with_sdm: bool) -> None:
    """Against a loop over the windows; the mean of logits would give another result."""
    image = random(1, 1, 7, 5, 4)
    total, logits, count = torch.zeros(1, 3, 7, 5, 4), torch.zeros(1, 2, 7, 5, 4), torch.zeros(1, 1, 7, 5, 4)
    for x, y, z in product((0, 2, 3), (0, 1), (0,)):
        box = (..., slice(x, x + 4), slice(y, y + 4), slice(z, z + 4))
        output = Gain()(image[box], return_all=True)
        total[box] += torch.cat([output.logits.softmax(1), output.sdm], 1)
        logits[box] += output.logits
        count[box] += 1
    result = WindowInferer((4, 4, 4), (2, 2, 2), sw_batch_size=3, with_sdm=with_sdm)(image, Gain())
    torch.testing.assert_close(result, (total / count)[:, : 3 if with_sdm else 2])
    assert not torch.allclose(result[:, :2], (logits / count).softmax(1), atol=1e-2)


@pytest.mark.parametrize("with_sdm", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_window_is_the_whole_volume(with_sdm: bool, precision: str) -> None:
    torch.manual_seed(0)
    network = VNet(num_classes=2, base_channels=1).eval()
    image = random(2, 1, 16, 16, 16)
    with torch.no_grad():
        window = WindowInferer((16,) * 3, (8,) * 3, with_sdm=with_sdm, precision=precision)(image, network)
        whole = WholeSliceInferer((16,) * 3, with_sdm=with_sdm, precision=precision)(image, network)
        expected = network(image, return_all=True)
    assert whole.shape == (2, 5 if with_sdm else 3, 16, 16, 16)
    assert window.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(window, whole)
    tolerance = {"float32": 1e-5, "bfloat16": 0.1}[precision]
    torch.testing.assert_close(whole[:, :3], expected.logits.softmax(1), rtol=0, atol=tolerance)
    torch.testing.assert_close(whole[:, 3:], expected.sdm[:, : 2 * with_sdm], rtol=0, atol=tolerance)


def test_volume_smaller_than_the_window() -> None:
    image = random(1, 1, 3, 9, 2)
    result = WindowInferer((4, 4, 4), (2, 2, 2))(image, Gain())
    assert result.shape == (1, 2, 3, 9, 2)
    torch.testing.assert_close(result.sum(1), torch.ones(1, 3, 9, 2))


@pytest.mark.parametrize("stride", [(0, 2, 2), (2, 5, 2), (2, 2)])
def test_stride_out_of_range_raises(stride: tuple[int, ...]) -> None:
    message = f"between 1 and the patch_size (4, 4, 4) on each axis: {stride}"
    with pytest.raises(ValueError, match=re.escape(message)):
        WindowInferer((4, 4, 4), stride)
    with pytest.raises(ValueError, match="window_stride must lie"):
        make_inferer("window", (4, 4, 4), stride)


def test_make_inferer_passes_its_arguments_on() -> None:
    window = make_inferer("window", (4, 6, 8), (2, 3, 4), with_sdm=True, precision="bfloat16")
    fast = make_inferer("fast", (4, 6, 8), (2, 3, 4), with_sdm=True, precision="bfloat16")
    assert isinstance(window, WindowInferer)
    assert isinstance(fast, WholeSliceInferer)
    assert {(i.with_sdm, i.precision) for i in (window, fast)} == {(True, "bfloat16")}
    network = Places()
    image = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in (6, 9, 12)), indexing="ij"))[None]
    make_inferer("window", (4, 6, 8), (2, 3, 4))(image, network)
    assert sorted(network.starts) == sorted(product((0, 2), (0, 3), (0, 4)))


@pytest.mark.parametrize(
    ("depth", "starts"),
    [(5, [0]), (8, [0]), (9, [0, 1]), (14, [0, 6]), (15, [0, 4, 7]), (20, [0, 6, 12])],
)
def test_fast_mode_takes_whole_slices_in_windows_of_the_depth_of_the_patch(depth: int, starts: list[int]) -> None:
    """Every window is as deep as the patch; the network sees the value 1 + its place, 0 where the volume is padded."""
    seen = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.cat([images * 0, images], 1)

    places = 1 + torch.arange(float(depth)).expand(1, 1, 6, 3, depth)
    result = make_inferer("fast", (4, 4, 8), (2, 2, 2))(places, network)
    assert [images.shape for images in seen] == [(1, 1, 6, 4, 8)] * len(starts)
    assert [int(images[0, 0, 0, 1].max()) - 8 for images in seen] == starts if depth >= 8 else True
    assert result.shape == (1, 2, 6, 3, depth)
    torch.testing.assert_close(result[:, 1:], places.sigmoid(), rtol=0, atol=1e-6)


def test_folded_network_follows_the_weights() -> None:
    """Same function as the network, folded once as long as the weights stay, and never while training."""
    torch.manual_seed(0)
    network = VNet(base_channels=2)
    network(random(2, 1, 16, 16, 16))
    inferer = make_inferer("fast", (16,) * 3, (8,) * 3)
    image = random(1, 1, 16, 16, 16)
    for _ in range(2):
        with torch.no_grad():
            expected = network.eval()(image).softmax(1)
            torch.testing.assert_close(inferer(image, network), expected)
            folded = inferer.folded[2]  # type: ignore[attr-defined]
            assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())
            inferer(image, network)
            assert inferer.folded[2] is folded  # type: ignore[attr-defined]
            network.segmentation.weight.add_(0.5)
            network.encoder[0][0].adn.N.running_mean.add_(0.5)
    image = random(2, 1, 32, 32, 32)
    inferer = make_inferer("fast", (32,) * 3, (8,) * 3)
    with torch.no_grad():
        network.train()
        torch.manual_seed(1)
        training = inferer(image, network)
        torch.manual_seed(1)
        torch.testing.assert_close(training, network(image).softmax(1))


def test_too_large_a_volume_is_cut_into_windows_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network = VNet(base_channels=1).eval()
    image = random(1, 1, 32, 16, 16)
    with torch.no_grad(), caplog.at_level("WARNING"):
        whole = make_inferer("fast", (16,) * 3, (8,) * 3, fast_max_voxels=32 * 16 * 16)(image, network)
        assert not caplog.records
        cut = make_inferer("fast", (16,) * 3, (8,) * 3, fast_max_voxels=32 * 16 * 16 - 1)(image, network)
        windows = WindowInferer((16,) * 3, (12, 12, 12))(image, network)
    assert "Slices of 32 x 16 voxels are too large for one pass (fast_max_voxels is 8191)" in caplog.text
    assert "windows of 16 x 16 x 16" in caplog.text
    assert torch.equal(cut, windows)
    assert not torch.allclose(cut, whole)


def test_unknown_mode_raises() -> None:
    with pytest.raises(ValueError, match="inference_mode must be 'window' or 'fast', got 'slow'"):
        make_inferer("slow", (4, 4, 4), (2, 2, 2))


@pytest.mark.parametrize("depth", [3, 5, 8])
def test_thick_slices_in_both_modes(depth: int) -> None:
    """Shorter than the patch, as deep, deeper; what is one window is the network's own answer."""
    torch.manual_seed(0)
    network = VNet(
        base_channels=2, strides=[[2, 2, 1]] * 4, kernel_sizes=[[3, 3, 1]] * 2 + [[3, 3, 3]] * 3
    ).eval()  # fmt: skip
    image = torch.randn(1, 1, 32, 32, depth)
    with torch.no_grad():
        results = [make_inferer(mode, [32, 32, 5], [16, 16, 2])(image, network) for mode in ("window", "fast")]
        for result in results:
            assert result.shape == (1, 2, 32, 32, depth)
            torch.testing.assert_close(result.sum(1), torch.ones(1, 32, 32, depth))
            if depth == 5:
                torch.testing.assert_close(result, network(image).softmax(1), atol=1e-5, rtol=1e-4)
