"""MONAI Label app for SimCVD bundles: unlabelled images of any datastore train too, and the next case is chosen.

A copy of this folder with the bundle in ``model/NAME`` is an app; see ``docs/monai_label.md``.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.transforms import Lambdad, SaveImaged
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import get_bundle_models

SCORE = "simcvd_disagreement"
"""Key of the score in the datastore's information on an image."""


class SemiSupervisedTrainTask(BundleTrainTask):
    """Training that gets the images without label too, from whatever datastore serves them.

    MONAI Label hands over the labelled cases alone.
    """

    def _fetch_datalist(self, request: dict[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        images = datastore.get_unlabeled_images()
        self.unlabeled_data = [{"image": datastore.get_image_uri(image)} for image in images]
        return super()._fetch_datalist(request, datastore)

    def _update_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        overrides["unlabeled_data"] = self.unlabeled_data
        return overrides


class RawOutputInferTask(BundleInferTask):
    """Inference that leaves the probabilities and signed distance maps as they come from the inferer."""

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(path, conf, post_filter=[SaveImaged, Lambdad], add_post_restore=False, skip_writer=True)

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        parser = super()._load_bundle_config(path, config)
        parser.config.update({"save_sdm": True, "inference_mode": "fast"})
        return parser


class DisagreementScoring(EpistemicScoring):
    """Score of an unlabelled image: how far its mask by probability and its mask by signed distance differ.

    Label's own scoring gives the loop over the images and passes over those that these weights have scored already.
    """

    def run_scoring(self, image_id: str, simulation_size: int, model_ts: int, datastore: Datastore) -> None:
        """Score one image with the weights of time ``model_ts`` and note it in the datastore."""
        from simcvd_bundle.inference.disagreement import (
            mask_disagreement,  # the bundle is on the path once a task has been made
        )

        device = "cuda" if torch.cuda.is_available() else "cpu"
        request = {"image": datastore.get_image_uri(image_id), "device": device, "logging": "error"}
        score = mask_disagreement(self.infer_task(request=request)[1]["pred"])
        datastore.update_image_info(image_id, {SCORE: score, self.key_output_ts: model_ts})


class SimCVDApp(MONAILabelApp):
    """Bundles named by ``--conf models``: inference, semi-supervised training, choice of the next case."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundles = get_bundle_models(app_dir, conf)
        if not self.bundles:
            raise ValueError("No bundle is named: start the server with --conf models NAME for the folder model/NAME.")
        super().__init__(app_dir, studies, conf, name="SimCVD", description="Segmentation from few labels")

    def init_infers(self) -> dict[str, BundleInferTask]:
        """Label's own bundle inference."""
        return {name: BundleInferTask(path, self.conf) for name, path in self.bundles.items()}

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        """Training with the pool of unlabelled images."""
        return {name: SemiSupervisedTrainTask(path, self.conf) for name, path in self.bundles.items()}

    def init_scoring_methods(self) -> dict[str, EpistemicScoring]:
        """Scores by the first bundle; Label runs them at the start, after a training and when a case is asked for."""
        path = next(iter(self.bundles.values()))
        return {"disagreement": DisagreementScoring(RawOutputInferTask(path, self.conf))}

    def init_strategies(self) -> dict[str, Any]:
        """``disagreement``: the highest score among the images that were not served within a day."""
        description = "The image on which probability and signed distance disagree most"
        return {"random": Random(), "first": First(), "disagreement": Epistemic(key=SCORE, desc=description)}
