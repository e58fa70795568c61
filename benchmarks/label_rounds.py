"""Dice after each round of labelling: with and without the unlabelled pool, next cases at random or by disagreement.

Every round trains ``configs/train.json`` with what MONAI Label overrides in it: plain lists of cases and a
``CheckpointLoader`` of the weights of the round before, so student and teacher start where that round ended. The cases
are phantoms that are made here: one ellipsoid to be found among rods and small balls of its own brightness, bright in
most cases and dark in the others. The network is small, so that a round takes seconds to a minute.

    python benchmarks/label_rounds.py --json label_rounds.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from torch import Tensor

from simcvd_bundle.inference.disagreement import mask_disagreement
from simcvd_bundle.runs.weights import load_weights

CONFIGS = common.ROOT / "configs"
SHAPE = (36, 36, 24)
ROUNDS = (2, 4, 8)
DARK = 0.25  # fraction of cases
NETWORK = {
    "precision": "float32",
    "patch_size": [32, 32, 16],
    "network_def::base_channels": 4,
    "network_def::dropout": 0.2,
}
SETTINGS = {
    **NETWORK, "head_pool_size": 32, "num_workers": 0, "validate::dataset::data": [],
}  # fmt: skip
ARMS = {"no pool, random": (False, False), "pool, random": (True, False), "pool, disagreement": (True, True)}
"""Name of a comparison: whether it has the pool, and whether disagreement chooses the next cases."""

Item = dict[str, str]


def phantom(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Image and label."""
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)

    def ellipsoid(axes: Sequence[float], margin: int) -> np.ndarray:
        centre = [random.uniform(margin, size - margin) for size in SHAPE]
        turned = Rotation.random(random_state=random).apply((grid - centre).reshape(-1, 3)).reshape(grid.shape)
        inside: np.ndarray = ((turned / axes) ** 2).sum(-1) < 1
        return inside

    label = ellipsoid(random.uniform(5, 8, 3), margin=9)
    shapes = [label, *(ellipsoid(axes, margin=4) for axes in ([2, 2, 10], [2, 2, 10], [3, 3, 3], [3, 3, 3]))]
    brightness = random.uniform(0.7, 1.3) * (-1 if random.rand() < DARK else 1)
    texture = gaussian_filter(random.randn(*SHAPE), 3)
    image = brightness * np.any(shapes, 0) + 0.4 * texture / texture.std() + 0.35 * random.randn(*SHAPE)
    return image.astype(np.float32), label.astype(np.uint8)


def make_cases(folder: Path, random: np.random.RandomState, number: int) -> list[Item]:
    """Write phantoms."""
    folder.mkdir()
    items = []
    for case in range(number):
        item = {"image": str(folder / f"image_{case:02d}.nii.gz"), "label": str(folder / f"label_{case:02d}.nii.gz")}
        for array, file in zip(phantom(random), item.values(), strict=True):
            nib.save(nib.Nifti1Image(array, np.eye(4)), file)
        items.append(item)
    return items


def train(folder: Path, labeled: list[Item], unlabeled: list[Item], iterations: int, seed: int) -> None:
    """One round, from the weights that the round before left in ``folder``."""
    handlers = json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]
    weights = folder / "models" / "model.pt"
    if weights.is_file():
        loader = {"load_path": str(weights), "load_dict": {"model": "$@network"}}
        handlers.insert(0, {"_target_": "CheckpointLoader", **loader})
    overrides = {
        "bundle_root": str(common.ROOT), "output_dir": str(folder / "run"), "ckpt_dir": str(folder / "models"),
        "cache_dir": str(folder.parent / "cache"), "iterations": iterations, "seed": seed, "unlabeled_data": unlabeled,
        "train::dataset::data": labeled, "train::handlers": handlers,
    }  # fmt: skip
    workflow = ConfigWorkflow(
        str(CONFIGS / "train.json"), workflow_type="train", logging_file=False, **{**SETTINGS, **overrides}
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def predict(folder: Path, items: list[Item]) -> list[Tensor]:
    """Probabilities and signed distance maps of the cases, by the weights in ``folder``."""
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.json"))
    parser.update({**NETWORK, "inference_mode": "fast", "save_sdm": True})
    network, inferer, prepare = map(parser.get_parsed_content, ("network", "inferer", "preprocessing"))
    device = parser.get_parsed_content("device")
    load_weights(network, str(folder / "models" / "model.pt"))
    network.eval()
    with torch.no_grad():
        images = (prepare({"image": item["image"]})["image"][None].to(device) for item in items)
        return [inferer(image, network)[0].cpu() for image in images]


def dice(pred: Tensor, label_file: str) -> float:
    """Dice of the mask by probability."""
    mask, label = pred[:2].argmax(0).numpy() == 1, np.asarray(nib.load(label_file).dataobj) == 1
    return float(2 * (mask & label).sum() / (mask.sum() + label.sum()))


def rounds(folder: Path, pool: list[Item], test: list[Item], arm: str, iterations: int, seed: int) -> list[float]:
    """Mean Dice of the test cases after each round."""
    with_pool, by_disagreement = ARMS[arm]
    order = np.random.RandomState(seed).permutation(len(pool)).tolist()
    scores = []
    for former, number in zip((0, *ROUNDS), ROUNDS, strict=False):
        if by_disagreement and former:
            rest = order[former:]
            disagreement = {
                case: mask_disagreement(pred)
                for case, pred in zip(rest, predict(folder, [pool[case] for case in rest]), strict=True)
            }
            order[former:] = sorted(rest, key=disagreement.__getitem__, reverse=True)
        labeled, unlabeled = [pool[case] for case in order[:number]], [pool[case] for case in order[number:]]
        first = folder.parent / f"first_round_{'with' if with_pool else 'without'}_pool"
        if not former and first.is_dir():
            shutil.copytree(first, folder)
        else:
            train(folder, labeled, unlabeled if with_pool else [], iterations, seed)
        if not former and not first.is_dir():
            shutil.copytree(folder, first)
        preds = predict(folder, test)
        scores.append(float(np.mean([dice(p, item["label"]) for p, item in zip(preds, test, strict=True)])))
    return scores


def main() -> None:
    """Run all comparisons for all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of phantoms, first cases and training")
    parser.add_argument("--iterations", type=int, default=150, help="of each round")
    parser.add_argument("--pool", type=int, default=24, help="cases that can be labelled")
    parser.add_argument("--test", type=int, default=12, help="cases that are scored")
    args = parser.parse_args()
    figures: dict[str, Any] = {arm: [] for arm in ARMS}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            random = np.random.RandomState(seed)
            pool, test = (
                make_cases(Path(scratch, name), random, number)
                for name, number in (("pool", args.pool), ("test", args.test))
            )
            for arm in ARMS:
                figures[arm].append(rounds(Path(scratch, arm), pool, test, arm, args.iterations, seed))
                print(f"\nseed {seed}, {arm}: {np.round(figures[arm][-1], 3)}", flush=True)
    rows = {
        arm: "   ".join(f"{number}: {mean:.3f}" for number, mean in zip(ROUNDS, np.mean(values, 0), strict=True))
        for arm, values in figures.items()
    }
    common.report("Mean Dice after the round with 2, 4 and 8 labels", rows, {"dice": figures}, args.json)


if __name__ == "__main__":
    main()
