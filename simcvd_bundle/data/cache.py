"""The dataset of whole volumes, cached on disk."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import monai
import torch
from monai.data import Dataset
from monai.transforms import Compose, RandomizableTrait, Transform
from monai.utils import convert_to_tensor
from tqdm import tqdm

import simcvd_bundle
from simcvd_bundle.data import reading
from simcvd_bundle.data.boxes import box_around, cut, random_box
from simcvd_bundle.data.cases import CheckedDataset, check_case, problem, raise_all
from simcvd_bundle.data.foreground import class_positions, draw_position, largest_pieces, one_piece
from simcvd_bundle.data.iterations import SampleIndex
from simcvd_bundle.data.sources import data_files
from simcvd_bundle.utils.atomic import atomically

logger = logging.getLogger(__name__)

FOREGROUND = ("class_positions", "largest_pieces")
"""Keys of what a cached case holds besides its volumes."""


class DiskCacheDataset(Dataset):
    """Cases whose deterministic transforms have been applied once and lie on disk, uncompressed and memory-mapped.

    All cases are prepared and checked (``check_case``) when the dataset is made, so a bad one ends the run before
    training starts. From then on a sample costs the reading of its file (the system keeps what fits into memory),
    whatever the number of cases, and a second start finds the files. A file belongs to one case, the size and time of
    its source files, and the deterministic transforms, their code included; when one of these changes another file is
    made. The folder can be deleted at any time; a damaged file is made anew.

    Several processes share the work: each prepares its part, then, on a machine that does not see the files of the
    others, its part among the processes of that machine.

    What is cached holds plain tensors, without metadata. Random transforms are seeded by the sampler, sample by sample:
    MONAI seeds them per worker, so that its samples depend on the number of workers and cannot be resumed.

    MONAI's ``PersistentDataset`` is not used: it does not see that a file has changed, prepares a case only when it is
    first drawn, and a kill while it moves a file across file systems leaves half a file.

    Args:
        data: items of the datalist.
        transform: all transforms; those before the first random one are cached.
        in_channels: channels that the network expects.
        num_classes: number of foreground classes.
        cache_dir: folder of the cached cases.
        num_workers: threads that prepare cases.
        progress: show a progress bar while cases are prepared.
        region: voxels by axis; of a larger case only a random box of this size is read for a sample, so that the memory
            of a sample is bounded whatever the size of the scan. ``None`` reads all.
        unlabeled_data: items whose images follow those of ``data``; a label of theirs is not used.
        patch_size: voxels by axis of a patch; needed for ``foreground_prob``.
        foreground_prob: how often a sample of a labelled case is read around a voxel of a class, drawn evenly from the
            classes of the case: a box of the size of the patch (square in the plane, as patches are turned there) with
            the voxel in its middle, or as near as the border lets it. The other samples are those of 0.

    Raises:
        ValueError: with all cases that cannot be read, transformed or used; or when ``foreground_prob`` is out of its
            range.
        OSError: when the folder cannot be written.
    """

    def __init__(
        self, data: Sequence[Any], transform: Compose, cache_dir: str, in_channels: int = 1, num_classes: int = 1,
        num_workers: int = 2, progress: bool = True, region: Sequence[int] | None = None,
        unlabeled_data: Sequence[Mapping[str, Any]] = (), patch_size: Sequence[int] | None = None,
        foreground_prob: float = 0.0,
    ) -> None:  # fmt: skip
        if not 0 <= foreground_prob <= 1 or (foreground_prob > 0 and patch_size is None):
            raise ValueError(f"foreground_prob must lie in [0, 1] and needs a patch_size, got {foreground_prob}.")
        data = [*data, *({"image": item["image"]} for item in unlabeled_data)]
        super().__init__(data, transform)
        self.channels = (in_channels, num_classes)
        self.region = region
        self.patch_size = patch_size
        self.foreground_prob = foreground_prob
        self.first_random: int | None = transform.get_index_of_first(  # type: ignore[no-untyped-call]
            lambda t: isinstance(t, RandomizableTrait) or not isinstance(t, Transform)
        )
        self.folder = Path(cache_dir)
        try:
            deterministic = _with_code(transform.transforms[: self.first_random])
        except (pickle.PicklingError, AttributeError, TypeError):
            logger.info("The deterministic transforms hold a lambda or code of a notebook: the cache serves this run.")
            deterministic = b""
            self.temporary = tempfile.TemporaryDirectory(prefix=".once_", dir=self._made(self.folder))
            self.folder = Path(self.temporary.name)
        versions = f"{monai.__version__} {simcvd_bundle.__version__}"
        key = hashlib.sha256(f"{versions} {in_channels} {num_classes}".encode() + deterministic)
        self.files = [self.folder / f"{_digest(item, key)}.pt" for item in data]
        # the last round is for a folder that even the processes of one machine do not share
        shares = [(idist.get_rank(), idist.get_world_size()), (idist.get_local_rank(), idist.get_nproc_per_node())]
        for first, step in (*shares, (0, 1)):
            missing = [i for i in range(first, len(data), step) if not self.files[i].is_file()]
            if missing:
                with ThreadPoolExecutor(max(num_workers, 1)) as threads:
                    done = threads.map(partial(problem, self._prepare), missing)
                    hidden = not progress or idist.get_rank() > 0
                    raise_all(list(tqdm(done, "caching cases", len(missing), disable=hidden)))
            idist.barrier()
        labeled = [i for i, item in enumerate(data) if item.get("label") is not None]
        self.pieces: list[dict[int, float]] = [self._read(i)["largest_pieces"] for i in labeled]

    def missing_classes(self) -> list[int]:
        """Classes without a voxel in any labelled case."""
        return sorted(set(range(1, self.channels[1] + 1)).difference(*self.pieces)) if self.pieces else []

    def one_piece_classes(self) -> list[int]:
        """Classes that are one piece in every labelled case that has them (`one_piece`)."""
        return one_piece(self.pieces)

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _prepare(self, index: int) -> None:
        # a copy for the thread: MONAI's NibabelReader keeps the names of the files that it is reading
        case = CheckedDataset([self.data[index]], deepcopy(self.transform), *self.channels)
        item = case.prepared(0, end=self.first_random)
        if item.get("label") is not None:
            found = class_positions(item["label"]), largest_pieces(item["label"])
            item = {**item, **dict(zip(FOREGROUND, found, strict=True))}
        try:
            with atomically(self.files[index], durable=False) as file:
                torch.save(convert_to_tensor(item, track_meta=False, convert_numeric=False), file)
        except (OSError, RuntimeError) as error:  # torch turns some errors of the disk into RuntimeErrors
            raise OSError(
                f"The cached case {self.files[index]} cannot be written ({error}): free space there, or choose another "
                "--cache_dir."
            ) from error

    def __getitem__(self, index: Any) -> Any:
        """Item of a ``SampleIndex``, or, with random transforms as they come, of an integer or a slice."""
        if isinstance(index, SampleIndex):
            self.transform.set_random_state(seed=index.seed)
            return self._transform(index.case, index.seed, index.place)
        return super().__getitem__(index)

    def _read(self, index: int) -> dict[str, Any]:
        """Cached case, memory-mapped."""
        try:
            item: dict[str, Any] = torch.load(self.files[index], mmap=True, weights_only=True)
        except Exception as error:  # whatever a damaged or missing file raises
            logger.warning("The cached case %s cannot be read (%s): making it anew.", self.files[index], error)
            self._prepare(index)
            item = torch.load(self.files[index], mmap=True, weights_only=True)
        return item

    def _transform(self, index: int, seed: int | None = None, place: Sequence[float] | None = None) -> Any:
        item = self._read(index)
        positions, _ = (item.pop(key, {}) for key in FOREGROUND)
        position = draw_position(positions, self.foreground_prob, seed)
        if position is not None and self.patch_size is not None:
            item = cut(item, box_around(position, self.patch_size, item["image"].shape[1:]))
        elif self.region is not None:
            item = cut(item, random_box(item["image"].shape[1:], self.region, seed, place))
        return self.transform(item, start=self.first_random) if self.first_random is not None else item


class _NotingModules(pickle.Pickler):
    """A pickler that notes the modules of all objects, classes and functions in what it writes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def persistent_id(self, value: Any) -> None:
        """Note the module of a value; ``None`` has the value pickled as usual."""
        module = getattr(value, "__module__", None)
        if isinstance(module, str):
            self.modules.add(module)


def _with_code(transforms: Sequence[Any]) -> bytes:
    """Transforms and their arguments, and the source of their modules, the readers, the checks and this cache.

    Raises:
        pickle.PicklingError: when they cannot be told from others (so may ``AttributeError`` and ``TypeError`` do).
    """
    content = io.BytesIO()
    pickler = _NotingModules(content)
    pickler.dump(transforms)
    readers = (name for name in sys.modules if name.startswith(f"{reading.__name__}."))
    for name in sorted({*pickler.modules, *readers, check_case.__module__, class_positions.__module__, __name__}):
        source = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        if source.suffix == ".py" and source.is_file():
            content.write(source.read_bytes())
        elif name == "__main__":
            raise pickle.PicklingError("The code was typed, not read from a file.")
    return content.getvalue()


def _digest(item: Any, key: Any) -> str:
    """Name of the cached file of an item: its content, the state of the files it names, and ``key``."""
    digest = key.copy()
    digest.update(pickle.dumps(item))
    for path in _paths(item):
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    return str(digest.hexdigest()[:32])


def _paths(value: Any) -> Iterator[Path]:
    """Files that an item names, those of a folder (a DICOM series) and those behind a header included."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, str | Path) and Path(value).exists():
        yield Path(value)
        yield from data_files(Path(value))
        if Path(value).is_dir():
            yield from sorted(p for p in Path(value).iterdir() if p.is_file())
