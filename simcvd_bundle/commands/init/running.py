"""From an overlay to masks: train, segment every unlabelled scan, and show the masks that the network doubts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from simcvd_bundle.commands.init.timing import training_files
from simcvd_bundle.data.datalists import common_folder, load_datalist
from simcvd_bundle.inference.case_table import DONE
from simcvd_bundle.utils.atomic import atomically
from simcvd_bundle.utils.errors import root_cause
from simcvd_bundle.utils.paths import BUNDLE_ROOT

logger = logging.getLogger(__name__)

TRAIN, MASKS, LOG, PAGE = "train", "masks", "log.txt", "report.html"


def run_folder(overlay: Path) -> Path:
    """Folder of the next run of an overlay: that of its last run if that is unfinished, else a new one.

    Folders are called ``NAME_run_1``, ``NAME_run_2`` and lie beside the overlay; what is in them is never replaced.
    """
    last = _last(overlay)
    return overlay.parent / _name(overlay, last if is_unfinished(overlay) else last + 1)


def is_unfinished(overlay: Path) -> bool:
    """Whether the last run of an overlay, as it is now, has not come to its page."""
    folder = overlay.parent / _name(overlay, _last(overlay))
    kept = folder / overlay.name
    return kept.is_file() and kept.read_bytes() == overlay.read_bytes() and not (folder / PAGE).is_file()


def _name(overlay: Path, number: int) -> str:
    return f"{overlay.stem.removeprefix('data_')}_run_{number}"


def _last(overlay: Path) -> int:
    """Number of the last run; 0 before the first."""
    pattern = re.escape(_name(overlay, 0))[:-1] + r"(\d+)"
    numbers = (re.fullmatch(pattern, path.name) for path in overlay.parent.iterdir())
    return max((int(found[1]) for found in numbers if found), default=0)


def train_and_segment(overlay: Path, subject: str | None = None) -> Path:
    """Train as an overlay says, segment the unlabelled training scans and write the page about them.

    A run that was interrupted continues from its last checkpoint. Datalist and overlay are kept beside the results.

    Args:
        overlay: what `init` wrote, with its datalist.
        subject: pattern of the subject in a scan's path: at most one scan of each is proposed for labelling.

    Returns:
        The folder of the run.
    """
    from simcvd_bundle.commands.init.certainty_page import write_page  # matplotlib, where it is needed

    content = dict(ConfigParser.load_config_file(overlay))
    folder = run_folder(overlay)
    _keep(overlay, folder, content)
    with _log(folder / LOG):
        items = load_datalist(**{key: content[key] for key in LISTS if key in content}, section="training")
        if not (folder / TRAIN / "model.pt").is_file():
            _train(overlay, folder, items)
        scans = [{"image": item["image"]} for item in items if item.get("label") is None]
        if not scans:
            logger.info("Every training scan has a label: there is no mask to make.")
        scores, failed = _segment(content, scans, folder) if scans else ({}, "")
        write_page(folder, content, scans, scores, failed, subject)
    return folder


LISTS = ("dataset_dir", "datalist", "num_labeled")


def _keep(overlay: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """Copies of overlay and datalist, so that a later `init` loses nothing of this run."""
    datalist = Path(content["dataset_dir"], content.get("datalist", "dataset.json"))
    for source in (datalist, overlay):
        with atomically(folder / source.name) as unfinished:
            unfinished.write_bytes(source.read_bytes())


def _train(overlay: Path, folder: Path, items: list[dict[str, Any]]) -> None:
    run = folder / TRAIN
    resume = any(run.glob("checkpoints/checkpoint_*.pt"))
    logger.info("%s in %s", "Continuing the training" if resume else "Training", run)
    workflow = ConfigWorkflow(
        config_file=[*training_files(items), str(overlay)], workflow_type="train", logging_file=False,
        bundle_root=str(BUNDLE_ROOT), output_dir=str(run), ckpt_dir=str(run), resume=resume,
    )  # fmt: skip
    with _causes():
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def _segment(content: Mapping[str, Any], scans: list[dict[str, Any]], folder: Path) -> tuple[dict[str, float], str]:
    """Masks of the scans; the network's certainty of each by its image's file, and what failed."""
    inference = json.loads((BUNDLE_ROOT / "configs" / "inference.json").read_text(encoding="utf-8"))
    settings = {name: value for name, value in content.items() if name.split("::")[0] in inference}
    workflow = ConfigWorkflow(
        config_file=[str(BUNDLE_ROOT / "configs" / "inference.json")], workflow_type="infer", logging_file=False,
        **{
            "inference_mode": "fast", **settings, "bundle_root": str(BUNDLE_ROOT), "scans": scans,
            "output_dir": str(folder / MASKS), "data_root_dir": common_folder(scans),
            "weights": str(folder / TRAIN / "model.pt"),
        },
    )  # fmt: skip
    with _causes():
        workflow.initialize()
        get = workflow.parser.get_parsed_content
        get("check")(config=workflow.parser.get())
        get("load")()
        try:
            get("evaluator").run()
            failed = ""
        except RuntimeError as error:  # at the end, with the scans that failed: the others have their masks
            failed = str(error)
    rows = get("table").rows()
    return {path: float(row["quality"]) for path, row in rows.items() if row["status"] == DONE}, failed


@contextmanager
def _causes() -> Iterator[None]:
    """Errors as what happened, instead of MONAI's general ones around it."""
    try:
        yield
    except Exception as error:
        cause = root_cause(error)
        if cause is error:
            raise
        raise cause from None


@contextmanager
def _log(file: Path) -> Iterator[None]:
    """Write what the package logs to a file too, whatever level the caller's log has."""
    package = logging.getLogger("simcvd_bundle")
    level = package.level
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
