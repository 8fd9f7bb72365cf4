"""`ImageIndex`: which of many small gray images are alike, mirrored in any way.

A volume is the sum of an even and an odd part along each axis: 8 parts for three axes. A mirroring
only changes signs: of those parts that are odd along the axes that it turns. So

- the products of the parts of two volumes give their correlation in every mirroring at once, and
- the even part beside the magnitudes of the others no longer knows how the volume is mirrored, and
  two volumes never lie further apart there than in their nearest mirroring.

The distance in those few directions of the latter in which images differ most, by one product of
matrices, therefore leaves all pairs that can be near enough, and hardly any others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_COORDINATES = 64  # of each image: more cost more than the pairs that they save
_SAMPLE = 512  # images that choose the directions: those of most of the differences
_AT_ONCE = 1 << 22  # numbers of float32: bounds the memory of a step, 16 MiB
_PAIRS_AT_ONCE = 1 << 24  # bounds the memory of a product: 64 MiB
_ROUNDING = 1e-5  # of a squared distance between images of length 1, in float32


@dataclass(frozen=True)
class GrayImages:
    """Many gray images of one shape; as float32 only those that are compared.

    `grays`: uint8 (rows, ...). `rows`: int (n,) or (n, k), which rows make each image. `mirrored`:
    the axes along which a copy may be turned over, of an array of images (n, ...).
    """

    grays: np.ndarray
    rows: np.ndarray
    mirrored: tuple[int, ...]

    def parts(self, which: np.ndarray) -> np.ndarray:
        """`mirror_parts` of some images."""
        return mirror_parts(self.grays[self.rows[which]], self.mirrored)

    def mirror_free(self, which: np.ndarray) -> np.ndarray:
        """float32 (n, numbers): what is left of some images when mirroring is left out."""
        parts = self.parts(which)
        np.abs(parts[:, 1:], out=parts[:, 1:])
        return parts.reshape(len(parts), -1)

    def at_once(self) -> int:
        """How many of these are compared at once."""
        return max(1, _AT_ONCE // max(1, self.grays[self.rows[:1]].size))


def mirror_parts(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """(n, ...) -> float32 (n, 2 ** len(axes), numbers): even and odd parts, the even one first.

    Each image first has its mean taken off and is brought to length 1, so that products are
    correlations; a constant one becomes 0: it is like nothing. The sides along `axes` are even.
    """
    images = values.reshape(len(values), -1).astype(np.float32)
    images -= images.mean(axis=1, keepdims=True)
    length = np.linalg.norm(images, axis=1, keepdims=True)
    parts = (images / np.where(length > 0, length, 1)).reshape(len(values), 1, *values.shape[1:])
    for axis in axes:
        half, other = np.split(parts, 2, axis + 1)
        other = np.flip(other, axis + 1)
        parts = np.concatenate([half + other, half - other], axis=1) / np.float32(np.sqrt(2))
    return parts.reshape(len(values), 2 ** len(axes), -1)


def best_mirrored(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation (n,) of images in their best mirroring, from their `mirror_parts`."""
    from scipy.linalg import hadamard

    products = np.einsum("npk,npk->np", a, b)
    best: np.ndarray = (products @ hadamard(a.shape[1], np.float32)).max(axis=1)
    return best


def correlate(a: GrayImages, i: np.ndarray, b: GrayImages, j: np.ndarray) -> np.ndarray:
    """Correlation of a[i] and b[j] in their best mirroring, float32 (n,)."""
    step = a.at_once()
    batches = (slice(start, start + step) for start in range(0, len(i), step))
    found = [best_mirrored(a.parts(i[batch]), b.parts(j[batch])) for batch in batches]
    return np.concatenate(found) if found else np.empty(0, np.float32)


class ImageIndex:
    """Finds the images that correlate with others by `least` or more, mirrored in any way."""

    def __init__(self, images: GrayImages, least: float) -> None:
        self.images = images
        # of vectors of length 1 the squared distance is 2 - 2 x correlation
        self._squared = 2 * (1 - least) + _ROUNDING
        self._directions = self._choose_directions()
        located = self._locate(images)
        half = (located * located).sum(axis=1, keepdims=True) / 2
        self._located = np.ascontiguousarray(np.hstack([located, np.ones_like(half), half]).T)

    def _choose_directions(self) -> np.ndarray:
        """(numbers, `_COORDINATES` or fewer): orthonormal, so that no distance grows."""
        count = len(self.images.rows)
        sample = self.images.mirror_free(np.arange(0, count, -(-count // _SAMPLE)))
        directions = np.linalg.svd(sample - sample.mean(axis=0), full_matrices=False)[2]
        chosen: np.ndarray = directions[:_COORDINATES].T
        return chosen

    def _locate(self, images: GrayImages) -> np.ndarray:
        step, count = images.at_once(), len(images.rows)
        places = (np.arange(start, min(start + step, count)) for start in range(0, count, step))
        return np.concatenate([images.mirror_free(some) @ self._directions for some in places])

    def near(self, images: GrayImages) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places i in `images` and j in the index, in order: all pairs that can be alike.

        Few others are among them; `correlate` tells. As many at a time as memory allows.
        """
        asked = self._locate(images)
        # one product gives half the squared distance, below 0 where it is small enough
        rest = (asked * asked).sum(axis=1, keepdims=True) / 2 - self._squared / 2
        asked = np.hstack([-asked, rest, np.ones_like(rest)])
        step = max(1, _PAIRS_AT_ONCE // self._located.shape[1])
        for start in range(0, len(asked), step):
            close = asked[start : start + step] @ self._located <= 0
            i, j = np.divmod(np.flatnonzero(close), close.shape[1])
            yield i + start, j
