"""Crops for the benchmarks of a training step, of any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from data.dataset import Crop

SOURCES = ("A", "B")  # centers, in turn
SPACING = (1.5, 0.8, 0.8)  # mm, (z, y, x)


def make_crops(shape: Sequence[int]) -> Iterator[Crop]:
    """Crops without end: noise, in it a pancreas with a tumor; each is resized to `shape`."""
    rng = np.random.default_rng(0)
    z, y, x = shape
    read = (z, y + 8, x - 8)
    distance = np.linalg.norm(
        [(n - size / 2) / (size / 2) for n, size in zip(np.indices(read), read, strict=True)],
        axis=0,
    )
    label = torch.from_numpy((distance < 0.8).astype(np.uint8) + (distance < 0.45))
    for index in itertools.count():
        hu = torch.from_numpy(rng.integers(-200, 300, read, dtype=np.int16))
        center = SOURCES[index % len(SOURCES)]
        yield Crop(hu, label, SPACING, (z, y, x), f"case_{index}", center, index)


def sides_of(voxels: float) -> tuple[int, int, int]:
    """Sides of multiples of 8, in the proportions of Table VI's inputs, of about `voxels`."""
    scale = (voxels / (64 * 224 * 224)) ** (1 / 3)
    z, y, x = (max(8, 8 * round(side * scale / 8)) for side in (64, 224, 224))
    return z, y, x
