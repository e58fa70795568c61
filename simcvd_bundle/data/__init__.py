"""From files to batches: datalists, cases, the cache, transforms, phantoms."""

from simcvd_bundle.data.batches import StreamBatchSampler, case_share, collate_streams, prepare_batch
from simcvd_bundle.data.cache import DiskCacheDataset
from simcvd_bundle.data.cases import CheckedDataset, SkippedCases
from simcvd_bundle.data.classes import ScanBatchSampler, class_weights, collate_scans, load_classes, scans_without_class
from simcvd_bundle.data.datalists import common_folder, load_datalist
from simcvd_bundle.data.halves import HalvesBatchSampler
from simcvd_bundle.data.loader import Loader
from simcvd_bundle.data.pairs import PairBatchSampler, collate_pairs
from simcvd_bundle.data.phantoms import phantom_dataset
from simcvd_bundle.data.reading import LoadLabeld, LoadScand, label_dtype
from simcvd_bundle.data.scans import find_images, find_unlabeled
from simcvd_bundle.data.subject_phantoms import subject_phantoms
from simcvd_bundle.data.transforms import ClassIndicesd, FileValuesd, SignedDistanceMapd

__all__ = [
    "CheckedDataset",
    "ClassIndicesd",
    "DiskCacheDataset",
    "FileValuesd",
    "HalvesBatchSampler",
    "LoadLabeld",
    "LoadScand",
    "Loader",
    "PairBatchSampler",
    "ScanBatchSampler",
    "SignedDistanceMapd",
    "SkippedCases",
    "StreamBatchSampler",
    "case_share",
    "class_weights",
    "collate_pairs",
    "collate_scans",
    "collate_streams",
    "common_folder",
    "find_images",
    "find_unlabeled",
    "label_dtype",
    "load_classes",
    "load_datalist",
    "phantom_dataset",
    "prepare_batch",
    "scans_without_class",
    "subject_phantoms",
]
