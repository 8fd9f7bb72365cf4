"""Scans that are there twice: a case of the target center in a source breaks the round robin.

Two signs. The fingerprint is equal for copies that were re-saved, turned, mirrored or padded
otherwise: it counts voxels per HU and ignores where they lie. The thumbnail also finds copies that
were resampled or slightly changed: small volumes of different patients are never this alike.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from data.prepare.resample import grid_weights, resample_float

COUNTED_HU = (-500, 1000)  # beyond it, padding and clamping differ between copies
THUMBNAIL_SHAPE = (16, 16, 16)
THUMBNAIL_HU = (-150, 250)
MIN_CORRELATION = 0.995  # resampled copies reach 0.998, different patients of one scanner 0.96


class Signed(Protocol):
    """What is compared: a case with its two signs."""

    @property
    def case_id(self) -> str: ...
    @property
    def center(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def thumbnail(self) -> np.ndarray: ...


def fingerprint(image_hu: np.ndarray) -> str:
    """sha256 over the sorted shape and the number of voxels of each HU in `COUNTED_HU`."""
    low, high = COUNTED_HU
    counts = np.zeros(high - low, np.int64)
    for plane in image_hu:
        inside = plane[(plane >= low) & (plane < high)].astype(np.int64) - low
        counts += np.bincount(inside, minlength=high - low)
    content = hashlib.sha256(repr(sorted(image_hu.shape)).encode())
    content.update(counts.astype("<i8").tobytes())
    return content.hexdigest()


def thumbnail(image_hu: np.ndarray) -> np.ndarray:
    """uint8 (16, 16, 16): the whole volume, `THUMBNAIL_HU` as 0 to 255."""
    weights = grid_weights(
        image_hu.shape,
        (1.0, 1.0, 1.0),
        THUMBNAIL_SHAPE,
        tuple(n / m for n, m in zip(image_hu.shape, THUMBNAIL_SHAPE, strict=True)),
    )
    low, high = THUMBNAIL_HU
    small = resample_float(np.clip(image_hu, low, high) - low, weights)
    return np.rint(small * (255 / (high - low))).astype(np.uint8)


def find_doubles(cases: Sequence[Signed]) -> list[tuple[Signed, Signed]]:
    """Pairs of cases that show the same scan, in the order of `cases`."""
    pairs = {}
    first: dict[str, int] = {}
    for number, case in enumerate(cases):
        if case.fingerprint in first:
            pairs[first[case.fingerprint], number] = True
        first.setdefault(case.fingerprint, number)
    for pair in _alike(cases):
        pairs.setdefault(pair, True)
    return [(cases[a], cases[b]) for a, b in sorted(pairs)]


def judge_doubles(
    cases: Sequence[Signed], dropping: Collection[str]
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Which doubles are dropped and which are refused.

    `dropping`: the centers that lose their copies; of two such centers the later one in `cases`.
    Returns (center, case_id) of each dropped case with the name of the one that stays, and a
    problem for each pair of which neither is dropped.
    """
    dropped: dict[tuple[str, str], str] = {}
    problems = []
    for first, second in find_doubles(cases):
        names = [f"{case.center}/{case.case_id}" for case in (first, second)]
        if second.center in dropping:
            dropped[second.center, second.case_id] = names[0]
        elif first.center in dropping:
            dropped[first.center, first.case_id] = names[1]
        else:
            problems.append(
                f"{names[0]} and {names[1]} are the same scan: list one of them under exclude, or "
                "set drop_doubles = true for the center that shall lose its copies"
            )
    return dropped, problems


def _alike(cases: Sequence[Signed]) -> list[tuple[int, int]]:
    """Pairs whose thumbnails correlate, in any mirroring (a copy may have lost its header)."""
    if len(cases) < 2:
        return []
    flips = [axes for n in range(4) for axes in itertools.combinations((0, 1, 2), n)]
    normal = _normalized(np.stack([case.thumbnail.ravel() for case in cases]))
    found = set()
    for axes in flips:
        mirrored = _normalized(np.stack([np.flip(c.thumbnail, axes).ravel() for c in cases]))
        a, b = np.nonzero(normal @ mirrored.T >= MIN_CORRELATION)
        found |= {(int(i), int(j)) for i, j in zip(a, b, strict=True) if i < j}
    return sorted(found)


def _normalized(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1, so that a product is a correlation; constant rows are 0."""
    rows = rows.astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
