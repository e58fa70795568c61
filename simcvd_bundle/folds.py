"""Cross-validation inside the labelled cases, for choices that no test or hidden label may decide."""

from __future__ import annotations

from pathlib import Path

from simcvd_bundle.atomic import write_json
from simcvd_bundle.datalists import load_datalist


def write_folds(
    dataset_dir: str, folds: int, output_dir: Path, datalist: str = "dataset.json", num_labeled: int | None = None
) -> list[Path]:
    """Write one datalist for each fold of the labelled training cases.

    Fold k is validated on every ``folds``-th labelled case from the k-th on. Its training has the other labelled cases
    and the unlabelled ones; held-out images are in no part of it.

    Args:
        dataset_dir: folder of the data.
        folds: number of folds, 2 to the number of labelled cases.
        output_dir: folder to write to.
        datalist: file name inside ``dataset_dir`` or an absolute path.
        num_labeled: the first n labelled cases count as labelled; ``None`` takes all.

    Returns:
        The files ``fold_K.json``, paths in them absolute.

    Raises:
        ValueError: when there are fewer labelled cases than folds.
    """
    items = load_datalist(dataset_dir, "training", datalist, num_labeled)
    labeled = [item for item in items if "label" in item]
    unlabeled = [item for item in items if "label" not in item]
    if not 2 <= folds <= len(labeled):
        raise ValueError(f"folds is {folds}, but {len(labeled)} cases are labelled: choose 2 to that number, or 0.")
    files = []
    for fold in range(folds):
        kept = [item for number, item in enumerate(labeled) if number % folds != fold]
        file = output_dir / f"fold_{fold}.json"
        write_json(file, {"training": kept + unlabeled, "validation": labeled[fold::folds]})
        files.append(file)
    return files
