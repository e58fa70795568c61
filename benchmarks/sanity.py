"""What SimCVD's terms do in a run: gradients, what makes slices find their partner, and the teacher beside the student.

At a checkpoint of a training, on batches of that training (ramp-up 1), it reports

- the gradient that each weighted term sends to the parts of the student, as a fraction of the segmentation loss's, and
  the cosine with that over the whole network;
- how often the teacher's slice nearest to a slice of the student is its own, one of the two neighbours, or anything
  else, and the contrastive loss, when the heads see X + SDM as in training, the image X alone or the SDM alone, with
  the trained heads and with new ones (chance: 1 / slices, 2 log slices);
- Dice of student and teacher on whole cases (fast mode).

    python benchmarks/sanity.py --config_file configs/data_la.json --dataset_dir DIR --checkpoint RUN/checkpoints/FILE
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from common import parser_of_cases, report, training_config
from inference import dice
from monai.utils import set_determinism
from torch import Tensor, nn

from simcvd_bundle.data.batches import prepare_batch
from simcvd_bundle.data.datalists import load_datalist
from simcvd_bundle.inference.windows import make_inferer
from simcvd_bundle.losses import BoundaryContrastiveLoss
from simcvd_bundle.training.student_teacher import StudentTeacherInferer
from simcvd_bundle.training.views import seen_through
from simcvd_bundle.utils.memory import keep_freed_memory
from simcvd_bundle.utils.precision import autocast

PARTS = ("encoder", "decoder", "segmentation", "sdm")


def gradients(terms: Mapping[str, Tensor], network: nn.Module) -> dict[str, dict[str, float]]:
    """Gradient norms of each term in each part, and the cosine with the segmentation loss's gradient."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    flat: dict[str, dict[str, Tensor]] = {}
    for term, value in terms.items():
        found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        flat[term] = {
            part: torch.cat([g.flatten() for name, g in zip(names, found, strict=True) if name.startswith(part)])
            for part in PARTS
        } | {"all": torch.cat([g.flatten() for g in found])}
    reference = flat["segmentation"]["all"]
    return {
        term: {part: float(gradient.norm()) for part, gradient in parts.items()}
        | {"cosine": float(torch.cosine_similarity(parts["all"], reference, dim=0))}
        for term, parts in flat.items()
    }


def retrieval(
    inferer: StudentTeacherInferer, heads: tuple[nn.Module, nn.Module], images: Tensor, network: nn.Module, seen: str
) -> dict[str, float]:
    """How the slices of unlabelled patches find their partners."""
    embeddings = []
    models = (network, inferer.teacher["network"])
    for views, model, head in zip((inferer.student_views, inferer.teacher_views), models, heads, strict=True):
        view = seen_through(views, {"unlabeled": images})["unlabeled"]
        with autocast(images, inferer.precision):
            output = model(view, return_all=True).entries()
        scale, inferer.sdm_scale = inferer.sdm_scale, 0.0 if seen == "X" else inferer.sdm_scale
        slices = inferer.boundary_slices(torch.zeros_like(view) if seen == "SDM" else view, output)
        inferer.sdm_scale = scale
        embeddings.append(head(slices))
    student, teacher = embeddings
    own = torch.arange(len(student))
    nearest = (student @ teacher.T).argmax(1).cpu()
    same_volume = nearest // images.shape[-1] == own // images.shape[-1]
    neighbor = same_volume & ((nearest - own).abs() == 1)
    return {
        "own": float((nearest == own).float().mean()),
        "neighbor": float(neighbor.float().mean()),
        "loss": float(BoundaryContrastiveLoss()({"embeddings": student, "teacher_embeddings": teacher}, {})),
    }


def mean_of(results: list[dict[str, float]]) -> dict[str, float]:
    """Means over batches."""
    return {key: statistics.mean(result[key] for result in results) for key in results[0]}


def main() -> None:
    """Measure and report."""
    arguments = parser_of_cases(__doc__)
    arguments.add_argument("--checkpoint", required=True, help="a file of RUN/checkpoints")
    arguments.add_argument("--batches", type=int, default=4)
    chosen = arguments.parse_args()
    keep_freed_memory()
    config = training_config(chosen.config_file)
    for name in ("dataset_dir", "cache_dir", "precision"):
        if getattr(chosen, name):
            config[name] = getattr(chosen, name)
    set_determinism(0)
    get = config.get_parsed_content
    network, inferer, loss = get("network"), get("train::inferer"), get("loss")
    heads = (inferer.head, inferer.teacher["head"])
    new_heads = copy.deepcopy(heads)
    content = torch.load(chosen.checkpoint, map_location="cpu", weights_only=True)
    modules = {"student": get("student"), "teacher": inferer.teacher}
    for name, module in modules.items():
        module.load_state_dict(content[name])

    norms: dict[str, list[dict[str, float]]] = defaultdict(list)
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    spreads: list[dict[str, float]] = []
    for module in (*modules.values(), *new_heads):
        module.train()
    for _, batch in zip(range(chosen.batches), get("train::dataloader"), strict=False):
        inputs, target = prepare_batch(batch, get("device"))
        for term, values in gradients(loss.by_name(inferer(inputs, network), target), network).items():
            norms[term].append(values)
        unlabeled = inputs["unlabeled"]["image"]
        with torch.no_grad():
            sdm = network(unlabeled, return_all=True).sdm
            spreads.append({"X": float(unlabeled.std()), "SDM": float(sdm.std())})
            for age, pair in (("trained", heads), ("new", new_heads)):
                for seen in ("X + SDM", "X", "SDM"):
                    found[age, seen].append(retrieval(inferer, pair, unlabeled, network, seen))

    items = load_datalist(get("dataset_dir"), chosen.section, get("datalist"), get("num_labeled"), require_labels=True)
    fast = make_inferer("fast", get("patch_size"), get("window_stride"), precision=get("precision"))
    scores: dict[str, list[float]] = {"student": [], "teacher": []}
    with torch.no_grad():
        for item in items[: chosen.cases]:
            data = get("validate::preprocessing")(item)
            for name, model in (("student", network.eval()), ("teacher", inferer.teacher["network"].eval())):
                image = data["image"][None].to(get("device"))
                scores[name].append(dice(fast(image, model), data["label"]))

    num_slices = unlabeled.shape[-1] * len(unlabeled)
    gradient_means = {term: mean_of(values) for term, values in norms.items()}
    retrieval_means = {f"{age} heads, {seen}": mean_of(values) for (age, seen), values in found.items()}
    spread = mean_of(spreads)
    reference = gradient_means["segmentation"]
    rows: dict[str, str] = {}
    for term, values in gradient_means.items():
        # the segmentation loss sends nothing to the SDM branch: there the norm itself
        parts = (f"{part} {values[part] / (reference[part] or 1):.3f}" for part in ("all", *PARTS))
        rows[f"gradient of {term}"] = f"{', '.join(parts)}; cosine {values['cosine']:+.2f}"
    for name, values in retrieval_means.items():
        rows[name] = f"own slice {values['own']:.1%}, a neighbour {values['neighbor']:.1%}, loss {values['loss']:.2f}"
    rows["chance"] = f"own slice {1 / num_slices:.1%}, loss {2 * math.log(num_slices):.2f}"
    rows["standard deviation"] = f"X {spread['X']:.2f}, SDM {spread['SDM']:.2f}"
    for name, values_of_cases in scores.items():
        mean, std = statistics.mean(values_of_cases), statistics.pstdev(values_of_cases)
        rows[f"Dice of the {name}"] = (
            f"{mean:.4f} +- {std:.4f}, {len(values_of_cases)} cases of section {chosen.section}"
        )
    figures: dict[str, Any] = {
        "gradients": gradient_means,
        "retrieval": retrieval_means,
        "num_slices": num_slices,
        "standard_deviation": spread,
        "dice": scores,
        "section": chosen.section,
    }
    report(f"{chosen.checkpoint}, {chosen.batches} batches, {get('precision')}", rows, figures, chosen.json)


if __name__ == "__main__":
    main()
