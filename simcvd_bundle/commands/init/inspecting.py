"""What the voxels of a scan are like: intensities and the values of its label, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from simcvd_bundle.data.foreground import largest_pieces
from simcvd_bundle.data.reading import Volume, as_integers, is_nifti

SAMPLES = 10_000
"""Voxels of a scan, and of its foreground, that stand for all."""
SLAB_VOXELS = 2**24
"""Voxels read at once from NIfTI files: 64 MiB as float32."""


@dataclass
class Intensities:
    """Sampled voxels of a scan (first channel) and, if labelled, of its foreground; counts and names of the values.

    ``occupied`` says for each axis which slices across it hold foreground, ``pieces`` which share of the voxels of each
    value other than 0 its largest piece holds.
    """

    sample: np.ndarray
    foreground: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    values: Counter[int] = field(default_factory=Counter)
    names: dict[int, str] = field(default_factory=dict)
    occupied: tuple[np.ndarray, ...] = ()
    pieces: dict[int, float] = field(default_factory=dict)


def read_intensities(image: Volume, label: Volume | None, seed: int = 0) -> Intensities:
    """Sample a scan; read the whole of its label, slab by slab.

    NIfTI files are read in slabs of ``SLAB_VOXELS``, of unlabelled scans 16 slices only; other files at once. A label
    stays as one byte a voxel, to see its pieces.

    Raises:
        ValueError: when a label holds other values than integers, or the sample NaN or infinity.
    """
    random = np.random.default_rng(seed)
    result = Intensities(np.zeros(0, np.float32))
    samples: list[np.ndarray] = []
    foreground: list[np.ndarray] = []
    shape = image.grid.shape
    occupied = [np.zeros(size, bool) for size in shape]
    numbered, numbers = np.zeros(shape if label is not None else 0, np.uint8), {0: 0}  # values as they are met
    scan_slab, label_slab = _slab_reader(image), None if label is None else _slab_reader(label)
    for first, last in _slabs(shape, label is None):
        values = scan_slab(first, last)[..., 0].astype(np.float32)
        share = -(-SAMPLES * (last - first) // (16 if label is None else shape[2]))
        samples.append(_draw(values.ravel(), share, random))
        if label is not None and label_slab is not None:
            classes = as_integers(label_slab(first, last)[..., 0], label.path)
            found, counts = np.unique(classes, return_counts=True)
            result.values.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            inside = classes != 0
            numbers.update({value: len(numbers) + n for n, value in enumerate(set(found.tolist()) - numbers.keys())})
            codes = np.array([numbers[value] for value in found.tolist()])
            numbered[:, :, first:last] = np.where(codes < 256, codes, 0)[np.searchsorted(found, classes)]
            foreground.append(_draw(values[inside], SAMPLES, random))
            occupied[0] |= inside.any((1, 2))
            occupied[1] |= inside.any((0, 2))
            occupied[2][first:last] = inside.any((0, 1))
    result.sample = np.concatenate(samples)
    if not np.isfinite(result.sample).all():
        raise ValueError(f"{image.path} holds NaN or infinite voxels: replace them.")
    if label is not None:
        result.names = {value: name for value, name in label.value_names.items() if result.values[value]}
        result.occupied = tuple(occupied)
        shares = largest_pieces(torch.from_numpy(numbered)[None])
        result.pieces = {value: shares[number] for value, number in numbers.items() if number in shares}
        result.foreground = _draw(np.concatenate(foreground), SAMPLES, random)
    return result


def _slab_reader(volume: Volume) -> Callable[[int, int], np.ndarray]:
    """What reads some slices: of NIfTI files from the disk, of others from the whole."""
    if is_nifti(volume.path):
        return volume.voxels
    voxels = volume.voxels()
    return lambda first, last: voxels[:, :, first:last]


def _slabs(shape: tuple[int, ...], sparse: bool) -> Iterator[tuple[int, int]]:
    if sparse:
        yield from ((z, z + 1) for z in sorted(set(np.linspace(0, shape[2] - 1, 16).round().astype(int).tolist())))
        return
    depth = max(1, SLAB_VOXELS // (shape[0] * shape[1]))
    yield from ((z, min(z + depth, shape[2])) for z in range(0, shape[2], depth))


def _draw(values: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    return values if len(values) <= number else values[random.integers(0, len(values), number)]
