"""The losses: hand values, invariances, low precision, degenerate input, gradients and errors."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from conftest import ROOT
from monai.bundle import ConfigParser
from tensor_losses import TensorLoss, of_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from simcvd_bundle import losses
from simcvd_bundle.losses import WeightedTerms, info_nce

BoundaryContrastiveLoss = of_tensors(losses.BoundaryContrastiveLoss)
ConsistencyLoss = of_tensors(losses.ConsistencyLoss)
PairwiseDistillationLoss = of_tensors(losses.PairwiseDistillationLoss)
RegionSegmentationLoss = of_tensors(losses.RegionSegmentationLoss)
SegmentationLoss = of_tensors(losses.SegmentationLoss)
SignedDistanceLoss = of_tensors(losses.SignedDistanceLoss)

NUM_LABELED = 2
UNSUPERVISED = ("contrastive", "distillation", "consistency")
STUDENT_KEYS = {
    "contrastive": ["embeddings"],
    "distillation": ["features"],
    "consistency": ["logits", "sdm"],
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def case(name: str, temperature: float = 0.01) -> tuple[TensorLoss, list[Tensor]]:
    """A loss and input for it in which student and teacher nearly agree (so a small temperature overflows ``exp``)."""
    if name == "contrastive":
        student = F.normalize(random(6, 8), dim=1)
        return BoundaryContrastiveLoss(temperature), [student, F.normalize(student + 0.1 * random(6, 8, seed=1), dim=1)]
    if name == "distillation":
        student = random(2, 4, 3, 2, 2)
        return PairwiseDistillationLoss(temperature), [student, student + 0.1 * random(2, 4, 3, 2, 2, seed=1)]
    logits, sdm = 30 * random(2, 3, 4, 4, 2), random(2, 2, 4, 4, 2, seed=1).tanh()
    if name == "consistency":
        return ConsistencyLoss(), [
            logits,
            sdm,
            30 * random(2, 3, 4, 4, 2, seed=2),
            random(2, 2, 4, 4, 2, seed=3).tanh(),
        ]
    if name == "segmentation":
        return SegmentationLoss(), [logits, (random(2, 1, 4, 4, 2, seed=4) > 0).float()]
    return SignedDistanceLoss(), [sdm, random(2, 2, 4, 4, 2, seed=5).tanh()]


NAMES = ["segmentation", "sdm", *UNSUPERVISED]


Streams = dict[str, dict[str, Tensor]]


def prediction(num_unlabeled: int = 3) -> tuple[Streams, Streams]:
    """What the inferer returns, and a target; the student's tensors are leaves, and the teacher's too."""
    pred = {
        stream: {
            "logits": random(size, 2, 4, 4, 2, seed=seed),
            "sdm": random(size, 1, 4, 4, 2, seed=seed + 1).tanh(),
            "features": random(size, 5, 2, 2, 1, seed=seed + 2),
        }
        for stream, size, seed in (("labeled", NUM_LABELED, 1), ("unlabeled", num_unlabeled, 11))
    }
    pred["unlabeled"] |= {
        "teacher_logits": random(num_unlabeled, 2, 4, 4, 2, seed=3),
        "teacher_sdm": random(num_unlabeled, 1, 4, 4, 2, seed=4).tanh(),
        "teacher_features": random(num_unlabeled, 5, 2, 2, 1, seed=6),
        "embeddings": F.normalize(random(6, 4, seed=7), dim=1),
        "teacher_embeddings": F.normalize(random(6, 4, seed=8), dim=1),
    }
    target = {
        "labeled": {
            "label": (random(NUM_LABELED, 1, 4, 4, 2, seed=9) > 0).float(),
            "sdm": random(NUM_LABELED, 1, 4, 4, 2, seed=10).tanh(),
        },
        "unlabeled": {},
    }
    for entries in pred.values():
        for entry in entries.values():
            entry.requires_grad_()
    return pred, target


def expected_terms(pred: Streams, target: Streams, tau: float = 0.5, with_sdm: bool = True) -> dict[str, float]:
    """Each term from its own module."""
    labeled, unlabeled = pred["labeled"], pred["unlabeled"]
    terms = {
        "segmentation": SegmentationLoss()(labeled["logits"], target["labeled"]["label"]),
        "sdm": SignedDistanceLoss()(labeled["sdm"], target["labeled"]["sdm"]),
        "contrastive": BoundaryContrastiveLoss(tau)(unlabeled["embeddings"], unlabeled["teacher_embeddings"]),
        "distillation": PairwiseDistillationLoss()(unlabeled["features"], unlabeled["teacher_features"]),
        "consistency": ConsistencyLoss(with_sdm)(
            unlabeled["logits"], unlabeled["sdm"], unlabeled["teacher_logits"], unlabeled["teacher_sdm"]
        ),
    }
    return {name: float(term) for name, term in terms.items()}


def simcvd(**settings: Any) -> WeightedTerms:
    """The loss of ``train.json``."""
    parser = ConfigParser()
    parser.read_config(ROOT / "configs" / "train.json")
    for name, value in settings.items():
        parser[name] = value
    loss: WeightedTerms = parser.get_parsed_content("loss")
    return loss


def values(loss: WeightedTerms, pred: Streams, target: Streams) -> dict[str, float]:
    """The terms of a call by name."""
    found: dict[str, float] = {}
    hooks = [
        term.register_forward_hook(lambda _, __, value, name=name: found.update({name: float(value.detach())}))
        for name, term in loss.losses.items()
    ]
    loss(pred, target)
    for hook in hooks:
        hook.remove()
    return found


# hand values


@pytest.mark.parametrize("tau", [0.01, 0.5])
def test_contrastive_of_equal_embeddings(tau: float) -> None:
    """No slice can be told from another: log N in each direction, whatever the temperature."""
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert float(BoundaryContrastiveLoss(tau)(same, same)) == pytest.approx(2 * math.log(5), rel=1e-5)


def test_contrastive_of_orthogonal_embeddings() -> None:
    """The positive has similarity 1, the N - 1 negatives 0; the two directions are added."""
    one_direction = -math.log(math.e**2 / (math.e**2 + 3))
    assert float(BoundaryContrastiveLoss(0.5)(torch.eye(4), torch.eye(4))) == pytest.approx(2 * one_direction, rel=1e-5)


def test_contrastive_defaults_to_the_temperature_of_the_paper() -> None:
    assert BoundaryContrastiveLoss().temperature == 0.5
    assert PairwiseDistillationLoss().temperature == 1.0


def test_distillation_hand_values() -> None:
    """Equal voxels cannot be told apart: log 245; orthogonal ones have cosine 1 with themselves and 0 with the rest."""
    loss = PairwiseDistillationLoss()
    same, axes = torch.ones(1, 2, 7, 7, 5), torch.eye(6)[None]
    assert float(loss(same, same)) == pytest.approx(math.log(245), rel=1e-5)
    assert float(loss(axes, axes)) == pytest.approx(-math.log(math.e / (math.e + 5)), rel=1e-5)
    assert float(loss(axes, -axes)) == pytest.approx(-math.log(math.exp(-1) / (math.exp(-1) + 5)), rel=1e-5)


def test_consistency_hand_values() -> None:
    """Probabilities (1, 0) against (1/2, 1/2) differ by 1/2 everywhere, SDMs 1 and 0 by 1; equal ones by nothing."""
    sure, unsure = torch.tensor([50.0, -50.0]).view(1, 2, 1, 1, 1), torch.zeros(1, 2, 1, 1, 1)
    one, zero = torch.ones(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1)
    assert float(ConsistencyLoss()(sure, one, unsure, zero)) == pytest.approx(1.25)
    assert float(ConsistencyLoss(include_sdm=False)(sure, one, unsure, zero)) == pytest.approx(0.25)
    assert float(ConsistencyLoss()(sure, one, sure, one)) == 0.0


def test_segmentation_hand_values() -> None:
    """A certain correct prediction costs nothing; an undecided one log 2 of cross-entropy and 1/3 of Dice."""
    label = torch.zeros(1, 1, 2, 2, 2)
    label[..., 0] = 1
    sure = torch.cat([1 - label, label], 1) * 100
    assert float(SegmentationLoss()(sure, label)) == pytest.approx(0.0, abs=1e-6)
    # half foreground: intersection 4 * 0.5, squares 8 * 0.25 + 4, Dice 1 - 4 / 6
    expected = (math.log(2) + 1 / 3) / 2
    assert float(SegmentationLoss()(torch.zeros(1, 2, 2, 2, 2), label)) == pytest.approx(expected, rel=1e-5)


def test_signed_distance_hand_value() -> None:
    assert float(SignedDistanceLoss()(torch.ones(1, 1, 2, 2, 2), -torch.ones(1, 1, 2, 2, 2))) == pytest.approx(4.0)


# invariances


def test_contrastive_ignores_the_order_of_pairs_and_swapping_the_sets() -> None:
    loss, (student, teacher) = case("contrastive", 0.5)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    value = loss(student, teacher)
    torch.testing.assert_close(loss(student[order], teacher[order]), value)
    torch.testing.assert_close(loss(teacher, student), value)
    assert loss(student, teacher[order]) > value + 0.1  # wrong pairs cost


def test_distillation_ignores_order_and_scale() -> None:
    loss, (student, teacher) = case("distillation", 1.0)
    value = loss(student, teacher)
    torch.testing.assert_close(loss(student.flip(0), teacher.flip(0)), value)
    torch.testing.assert_close(loss(student.flip(2, 4), teacher.flip(2, 4)), value)
    torch.testing.assert_close(loss(5 * student, 0.1 * teacher), value)
    assert loss(student.flip(2), teacher) > value + 0.01


@pytest.mark.parametrize("name", ["segmentation", "sdm", "consistency"])
def test_voxelwise_losses_ignore_the_order_of_the_batch(name: str) -> None:
    loss, tensors = case(name)
    value = loss(*tensors)
    assert value > 0
    torch.testing.assert_close(loss(*(t.flip(0, 3) for t in tensors)), value)


# numbers of low precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_gives_the_float32_value_and_finite_gradients(name: str, dtype: torch.dtype) -> None:
    """At temperature 0.01 and with logits of +-100: the arithmetic is float32, only the input is rounded."""
    loss, tensors = case(name)
    low = [t.to(dtype).requires_grad_() for t in tensors]
    value = loss(*low)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert float(value.detach()) == float(loss(*(t.detach().float() for t in low)))
    value.backward()
    assert low[0].grad is not None
    assert low[0].grad.dtype == dtype
    assert low[0].grad.isfinite().all()
    assert low[0].grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name: str) -> None:
    loss, tensors = case(name)
    tensors[0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(*tensors)
    assert value.dtype == torch.float32
    assert float(value.detach()) == float(loss(*tensors).detach())
    value.backward()
    assert tensors[0].grad is not None
    assert tensors[0].grad.isfinite().all()


def test_integer_labels_stay_integer() -> None:
    loss, (logits, label) = case("segmentation")
    assert float(loss(logits, label.long())) == float(loss(logits, label))


# degenerate input


def test_single_pair_or_voxel_gives_zero() -> None:
    assert float(BoundaryContrastiveLoss()(torch.eye(1, 3), -torch.eye(1, 3))) == 0.0
    assert float(PairwiseDistillationLoss()(random(2, 3, 1, 1, 1), random(2, 3, 1, 1, 1, seed=1))) == 0.0


def test_distillation_of_dead_features_is_finite() -> None:
    """After a ReLU a voxel can be all zero, which has no direction."""
    student = torch.zeros(1, 3, 4, requires_grad=True)
    value = PairwiseDistillationLoss()(student, torch.ones(1, 3, 4))
    value.backward()
    assert float(value.detach()) == pytest.approx(math.log(4), rel=1e-5)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_segmentation_without_foreground() -> None:
    """A prediction with foreground pays a Dice of 1, an empty one nothing."""
    label = torch.zeros(2, 1, 4, 4, 4)
    undecided = torch.zeros(2, 2, 4, 4, 4)
    empty = torch.zeros(2, 2, 4, 4, 4)
    empty[:, 0] = 100
    assert float(SegmentationLoss()(undecided, label)) == pytest.approx((math.log(2) + 1) / 2, rel=1e-4)
    assert float(SegmentationLoss()(empty, label)) == pytest.approx(0.0, abs=1e-6)


# errors


@pytest.mark.parametrize("temperature", [0.0, -0.5, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"BoundaryContrastiveLoss: temperature must be positive, got {temperature}"):
        BoundaryContrastiveLoss(temperature)
    with pytest.raises(ValueError, match=f"PairwiseDistillationLoss: temperature must be positive, got {temperature}"):
        PairwiseDistillationLoss(temperature)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((2, 3, 1), (2, 3, 1)), ((0, 3), (0, 3))]
)
def test_contrastive_names_bad_shapes(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    message = f"of shape (N, C), got {list(student)} and {list(teacher)}."
    with pytest.raises(ValueError, match=re.escape(message)):
        BoundaryContrastiveLoss()(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3, 4), (1, 3, 4)), ((2, 3), (2, 3)), ((2, 3, 0), (2, 3, 0)), ((2, 3, 4), (2, 3, 5))]
)
def test_distillation_names_bad_shapes(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    message = f"of shape (B, C, *spatial), got {list(student)} and {list(teacher)}."
    with pytest.raises(ValueError, match=re.escape(message)):
        PairwiseDistillationLoss()(torch.zeros(student), torch.zeros(teacher))


# the weighted sum


def test_total_has_each_weight_on_its_term() -> None:
    """The ramp-up scales the three unsupervised terms and them only."""
    pred, target = prediction()
    loss = simcvd(sdm_weight=2.0, contrastive_weight=3.0, distillation_weight=5.0, consistency_weight=7.0)
    terms = expected_terms(pred, target)
    for ramp in (1.0, 0.25, 0.0):
        loss.ramp = ramp
        expected = terms["segmentation"] + 2 * terms["sdm"] + ramp * (
            3 * terms["contrastive"] + 5 * terms["distillation"] + 7 * terms["consistency"]
        )  # fmt: skip
        assert float(loss(pred, target).detach()) == pytest.approx(expected, rel=1e-5)
        assert values(loss, pred, target) == pytest.approx(terms, rel=1e-5)


def test_default_weights_are_those_of_the_paper() -> None:
    loss = simcvd()
    assert loss.current_weights() == {
        "segmentation": 1.0,
        "sdm": 0.1,
        "contrastive": 0.5,
        "distillation": 0.1,
        "consistency": 0.1,
    }
    assert loss.ramp == 1.0
    assert loss.ramped == set(UNSUPERVISED)
    assert (loss.losses["contrastive"].temperature, loss.losses["distillation"].temperature) == (0.5, 1.0)


def test_settings_reach_their_terms() -> None:
    pred, target = prediction()
    expected = expected_terms(pred, target, 0.2, False)
    found = values(simcvd(temperature=0.2, consistency_includes_sdm=False), pred, target)
    assert found == pytest.approx(expected, rel=1e-5)
    default = expected_terms(pred, target)
    assert all(abs(expected[name] - default[name]) > 1e-3 for name in ("contrastive", "consistency"))


@pytest.mark.parametrize(
    ("entry", "term"),
    [("embeddings", "contrastive"), ("teacher_features", "distillation"), ("teacher_sdm", "consistency")],
)
def test_an_entry_that_is_missing_leaves_out_a_term_without_weight_and_is_an_error_with_one(
    entry: str, term: str
) -> None:
    pred, target = prediction()
    del pred["unlabeled"][entry]
    left = {name: weight for name, weight in simcvd().weights.items() if name != term}
    loss = simcvd(**{f"{term}_weight": 0})
    complete = prediction()[0]
    terms = {name: value for name, value in expected_terms(complete, target).items() if name != term}
    assert values(loss, pred, target) == pytest.approx(terms, rel=1e-5)
    expected = sum(weight * terms[name] for name, weight in left.items())
    assert float(loss(pred, target).detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=f"The term {term} needs '{entry}' of the stream 'unlabeled'.*{term}_weight"):
        simcvd()(pred, target)


def test_a_stream_that_is_missing_is_an_error_that_names_its_batch_size() -> None:
    pred, target = prediction()
    with pytest.raises(ValueError, match=r"term contrastive needs 'unlabeled'.*or unlabeled_batch_size to at least 1"):
        simcvd()({"labeled": pred["labeled"]}, {"labeled": target["labeled"]})
    supervised = simcvd(contrastive_weight=0, distillation_weight=0, consistency_weight=0)
    found = values(supervised, {"labeled": pred["labeled"]}, {"labeled": target["labeled"]})
    assert found.keys() == {"segmentation", "sdm"}


@pytest.mark.parametrize("name", ["sdm", "contrastive", "distillation", "consistency"])
@pytest.mark.parametrize("weight", [-0.1, math.nan, True])
def test_a_weight_out_of_its_range_raises(name: str, weight: float) -> None:
    terms = {name: {"loss": nn.Identity(), "stream": "labeled", "weight": weight}}
    with pytest.raises(ValueError, match=f"The weight of the term {name} is {weight}, but must be at least 0"):
        WeightedTerms(terms)


@pytest.mark.parametrize(
    ("term", "message"),
    [({"stream": "a", "weight": 1}, "missing: loss"), ({"loss": nn.Identity(), "stream": "a", "weight": 1, "ramp": 1},
                                                       "unknown: ramp, missing: none")],
)  # fmt: skip
def test_a_term_with_other_parts_raises(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"loss::terms::mine needs .*{message}"):
        WeightedTerms({"mine": term})


# regions


def test_labelled_throughout_it_is_the_segmentation_loss() -> None:
    logits, classes = random(2, 3, 4, 4, 2, seed=1), (random(2, 1, 4, 4, 2, seed=2) > 0).float()
    nowhere = torch.zeros_like(classes, dtype=torch.bool)
    one_hot = torch.cat([classes == c for c in range(3)], 1).float()
    expected = float(SegmentationLoss()(logits, classes))
    assert float(RegionSegmentationLoss()(logits, one_hot, nowhere)) == pytest.approx(expected, rel=1e-5)
    assert float(RegionSegmentationLoss(0.3)(logits, one_hot, ~nowhere)) == pytest.approx(0.3 * expected, rel=1e-5)


def test_voxels_without_target_get_no_gradient_and_no_region_is_needed() -> None:
    logits = random(1, 2, 2, 2, 2, seed=1).requires_grad_()
    soft_label = torch.zeros(1, 2, 2, 2, 2)
    everywhere = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    RegionSegmentationLoss()(logits, soft_label, everywhere).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0
    soft_label[:, 1, 0] = 1
    RegionSegmentationLoss()(logits, soft_label, everywhere).backward()
    assert logits.grad[:, :, 1].abs().sum() == 0
    assert (logits.grad[:, :, 0].abs() > 0).all()


def test_a_negative_pseudo_weight_raises() -> None:
    with pytest.raises(ValueError, match=r"pseudo_weight must be at least 0, got -0\.5"):
        RegionSegmentationLoss(-0.5)


def test_terms_have_their_time() -> None:
    """``from`` counts the iterations before, ``until`` is the last one; a term outside of its time is not computed."""
    parts = {"early": {"until": 2}, "late": {"from": 2, "until": 4}, "always": {}}
    loss = WeightedTerms(
        {n: {"loss": SegmentationLoss().loss, "stream": n, "weight": 1, **t} for n, t in parts.items()}
    )
    current = []
    for loss.iteration in (1, 2, 3, 4, 5):
        current.append(sorted(loss.current_weights()))
        assert loss.current_streams() == set(current[-1])
    assert current == [["always", "early"]] * 2 + [["always", "late"]] * 2 + [["always"]]
    entries = {"logits": random(1, 2, 2, 2, 2), "label": torch.ones(1, 1, 2, 2, 2)}
    loss.iteration = 2
    found = values(loss, {"early": entries, "always": entries}, {})  # a stream of a mix brings its target
    assert found.keys() == {"early", "always"}


def test_a_time_without_terms_is_an_error() -> None:
    loss = WeightedTerms({"mine": {"loss": nn.Identity(), "stream": "a", "weight": 1, "until": 3}})
    loss.iteration = 4
    with pytest.raises(
        ValueError, match="No term of loss::terms takes part in iteration 4: see from and until of mine"
    ):
        loss({}, {})


def test_a_term_of_several_streams_gets_their_patches_together() -> None:
    """Entries that all of them have; targets too, and the ramp."""
    seen: dict[str, Any] = {}

    class Remember(nn.Module):
        def forward(self, pred: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
            seen.update(pred=pred, target=target)
            return pred["logits"].sum()

    pred, target = prediction()
    loss = WeightedTerms(
        {"both": {"loss": Remember(), "stream": ["labeled", "unlabeled"], "weight": 1, "ramped": True}}
    )
    loss.ramp = 0.25
    assert loss.current_streams() == {"labeled", "unlabeled"}
    loss(pred, {**target, "unlabeled": {"label": torch.zeros(3, 1, 4, 4, 2)}})
    assert seen["pred"].keys() == {"logits", "sdm", "features", "ramp"}
    assert torch.equal(seen["pred"]["sdm"], torch.cat([pred[stream]["sdm"] for stream in ("labeled", "unlabeled")]))
    assert float(seen["pred"]["ramp"]) == 0.25
    assert seen["target"].keys() == {"label"}
    assert len(seen["target"]["label"]) == NUM_LABELED + 3
    with pytest.raises(ValueError, match=r"'labeled' and 'unlabeled'.*unlabeled_batch_size to at least 1"):
        loss({"labeled": pred["labeled"]}, target)


@pytest.mark.parametrize(
    ("entry", "remedy"),
    [("extra_logits", "network_def extra_decoders"), ("teacher_mean", "teacher_samples to at least")],
)
def test_the_remedy_of_a_missing_entry_is_told(entry: str, remedy: str) -> None:
    class Reads(nn.Module):
        def forward(self, pred: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
            return pred[entry]

    with pytest.raises(ValueError, match=f"term mine needs '{entry}' of the stream 'unlabeled'.*{remedy}"):
        WeightedTerms({"mine": {"loss": Reads(), "stream": "unlabeled", "weight": 1}})(*prediction())


def test_a_stream_of_terms_without_weight_costs_nothing() -> None:
    terms = {
        name: {"loss": nn.Identity(), "stream": name, "weight": float(name == "labeled")} for name in prediction()[0]
    }
    assert WeightedTerms(terms).current_streams() == {"labeled"}
    assert not WeightedTerms(terms).needs_teacher()
    assert simcvd().needs_teacher()
    assert not simcvd(contrastive_weight=0, distillation_weight=0, consistency_weight=0).needs_teacher()


def test_info_nce_is_one_direction_of_the_contrast() -> None:
    """Rows of a finite batch; the two directions add up to eq. (3)."""
    student, teacher = (F.normalize(random(6, 8, seed=seed), dim=1) for seed in (0, 1))
    both = info_nce(student, teacher, 0.5) + info_nce(teacher, student, 0.5)
    torch.testing.assert_close(BoundaryContrastiveLoss(0.5)(student, teacher), both)
    assert abs(float(info_nce(student, teacher, 0.5) - info_nce(teacher, student, 0.5))) > 1e-3


# gradients


@pytest.mark.parametrize("term", UNSUPERVISED)
def test_unsupervised_term_moves_the_student_and_not_the_teacher(term: str) -> None:
    """Only ``term`` has a weight besides the segmentation, which labelled patches alone get a gradient of."""
    pred, target = prediction()
    weights = {f"{name}_weight": float(name == term) for name in ("sdm", *UNSUPERVISED)}
    simcvd(**weights)(pred, target).backward()
    for key, tensor in pred["unlabeled"].items():
        if key in STUDENT_KEYS[term]:
            assert tensor.grad is not None, key
            assert tensor.grad.abs().sum() > 1e-4, key
        else:  # the teacher's among them
            assert tensor.grad is None or tensor.grad.abs().max() == 0, key
        assert not key.startswith("teacher") or tensor.grad is None, key


def test_labelled_patches_get_no_consistency_gradient() -> None:
    pred, target = prediction()
    loss = simcvd(sdm_weight=0, contrastive_weight=0, distillation_weight=0, consistency_weight=1)
    loss(pred, target).backward()
    assert pred["labeled"]["sdm"].grad is not None
    assert pred["labeled"]["sdm"].grad.abs().max() == 0
    assert pred["unlabeled"]["sdm"].grad is not None
    assert pred["unlabeled"]["sdm"].grad.abs().min() > 0


@pytest.mark.parametrize("name", UNSUPERVISED)
def test_each_term_detaches_its_teacher(name: str) -> None:
    loss, tensors = case(name, 0.5)
    half = len(tensors) // 2
    leaves = [t.clone().requires_grad_() for t in tensors]
    loss(*leaves).backward()
    assert all(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves[:half])
    assert all(leaf.grad is None for leaf in leaves[half:])
