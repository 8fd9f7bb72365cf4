"""Which scans of two lists are alike: one search per sign of `data.prepare.signature`.

Each search looks at all pairs of thousands of scans within seconds: products of matrices leave few
pairs, and only those are compared in full.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from data.prepare.signature import Signature

Pairs = dict[tuple[int, int], float]  # (place in a, place in b) -> similarity

MIN_SHARED = 6  # hashes; different patients share none (benchmarks/bench_duplicates.py)
MIN_THUMBNAIL = 0.99  # correlation; resampled copies reach 0.993, different patients 0.96
MIN_SLABS = 0.965  # correlation; cropped, resampled copies reach 0.97, different patients 0.94
MIN_CHANGE = 0.92  # the same without what all slabs share; copies reach 0.94, patients 0.87
MIN_ROWS = 8  # slabs that two scans share: 64 mm of height
MAX_EXTENT_RATIO = 1.06  # between the heights, and the widths, of two bodies
_MIN_PROBE = 0.97  # correlation of three slabs, mirrored parts averaged: a copy reaches 0.99
_MIN_TRIPLE = 0.955  # correlation of the same three slabs, not averaged
_GAP = 2  # slabs from one of the three to the next
_NUMBERS_AT_ONCE = 1 << 25  # bounds the memory of a comparison: 128 MiB of float32


def match_fingerprints(a: Sequence[Signature], b: Sequence[Signature]) -> Pairs:
    """Pairs that share hashes; similarity: the part of the smaller scan that is in the other."""
    both = [signature.fingerprint for signature in (*a, *b)]
    if not a or not b:
        return {}
    hashes, columns = np.unique(np.concatenate(both), return_inverse=True)
    rows = np.repeat(np.arange(len(both)), [len(fingerprint) for fingerprint in both])
    table = sparse.csr_matrix(
        (np.ones(len(rows), np.int32), (rows, columns)), shape=(len(both), len(hashes))
    )
    shared = (table[: len(a)] @ table[len(a) :].T).tocoo()
    found = {}
    for i, j, count in zip(shared.row, shared.col, shared.data, strict=True):
        if count >= MIN_SHARED:
            found[int(i), int(j)] = _contained(a[i].fingerprint, b[j].fingerprint, int(count))
    return found


def _contained(a: np.ndarray, b: np.ndarray, shared: int) -> float:
    """Part of the smaller scan that is in the other, from the range of hashes that both cover."""
    end = min(a[-1], b[-1])
    fewest = min(np.searchsorted(a, end, "right"), np.searchsorted(b, end, "right"))
    return float(shared / fewest)


def match_thumbnails(a: Sequence[Signature], b: Sequence[Signature]) -> Pairs:
    """Pairs whose thumbnails correlate in one of 48 orientations (a copy may have no header)."""
    if not a or not b:
        return {}
    first = _normalized(np.stack([signature.thumbnail for signature in a]))
    second = _normalized(np.stack([signature.thumbnail for signature in b]))
    own = _mirror_free(first, (1, 2, 3))
    found: Pairs = {}
    for axes in itertools.permutations((1, 2, 3)):
        turned = second.transpose(0, *axes)
        other = _mirror_free(turned, (1, 2, 3))
        for i, j in _within(own, other, 2 * (1 - MIN_THUMBNAIL)):
            values = _best_mirrored(first, turned, i, j, (1, 2, 3))
            _keep_best(found, i, j, values, MIN_THUMBNAIL)
    return found


def match_slabs(a: Sequence[Signature], b: Sequence[Signature]) -> Pairs:
    """Pairs of which a stretch of slabs correlates: copies that were cropped along z and changed.

    The stretch has 64 mm and half of the shorter scan at least, in any mirroring. The middle of the
    shorter scan then lies in it and is looked for in the longer one.
    """
    found: Pairs = {}
    for shorter, longer, swapped in ((a, b, False), (b, a, True)):
        for (i, j), value in _find_middles(shorter, longer, swapped).items():
            pair = (j, i) if swapped else (i, j)
            found[pair] = max(value, found.get(pair, value))
    return found


@dataclass(frozen=True)
class _Triples:
    """Three slabs, `_GAP` apart, around each slab of many scans; `values` (n, 3, 12, 12)."""

    values: np.ndarray
    extents_mm: np.ndarray
    owner: np.ndarray
    middle: np.ndarray

    @staticmethod
    def of(signatures: Sequence[Signature], only_middle: bool) -> _Triples | None:
        """All triples of all scans that are long enough, or the one in the middle of each.

        The longest scan first. None where no scan has `MIN_ROWS` slabs.
        """
        values, extents, owners, middles = [], [], [], []
        lengths = [len(signature.slabs) for signature in signatures]
        for number in np.argsort(lengths, kind="stable")[::-1]:
            signature, n = signatures[number], lengths[number]
            if n < MIN_ROWS:
                break
            places = np.array([n // 2]) if only_middle else np.arange(_GAP, n - _GAP)
            stacked = np.stack([places - _GAP, places, places + _GAP], axis=1)
            values.append(signature.slabs[stacked])
            extents.append(signature.extents_mm[places])
            owners.append(np.full(len(places), number))
            middles.append(places)
        if not values:
            return None
        return _Triples(
            _normalized(np.concatenate(values)),
            np.concatenate(extents),
            np.concatenate(owners),
            np.concatenate(middles),
        )


def _find_middles(
    shorter: Sequence[Signature], longer: Sequence[Signature], strictly: bool
) -> Pairs:
    """(place in shorter, place in longer) -> similarity of the stretch around the middle."""
    probes, triples = _Triples.of(shorter, True), _Triples.of(longer, False)
    if probes is None or triples is None:
        return {}
    lengths = np.array([len(s.slabs) for s in shorter]), np.array([len(s.slabs) for s in longer])
    allowed = -lengths[0][probes.owner] - (0 if strictly else -1)
    ends = np.searchsorted(-lengths[1][triples.owner], allowed)  # of those that are long enough
    found: Pairs = {}
    for upside_down in (False, True):
        turned = probes.values[:, ::-1] if upside_down else probes.values
        own, other = _mirror_free(turned, (2, 3)), _mirror_free(triples.values, (2, 3))
        best: dict[tuple[int, int], tuple[float, int, int]] = {}  # of each pair of scans
        for i, j in _within(own, other, 2 * (1 - _MIN_PROBE), ends):
            fits = (j < ends[i]) & _same_size(probes.extents_mm[i], triples.extents_mm[j])
            i, j = i[fits], j[fits]
            values = _best_mirrored(turned, triples.values, i, j, (2, 3))
            for k in np.flatnonzero(values >= _MIN_TRIPLE):
                pair = int(probes.owner[i[k]]), int(triples.owner[j[k]])
                if values[k] > best.get(pair, (0.0, 0, 0))[0]:
                    best[pair] = float(values[k]), int(i[k]), int(j[k])
        for pair, (_, probe, place) in best.items():
            places = int(probes.middle[probe]), int(triples.middle[place])
            value = _stretch(shorter[pair[0]].slabs, longer[pair[1]].slabs, places, upside_down)
            if value >= MIN_SLABS:
                found[pair] = max(value, found.get(pair, value))
    return found


def _same_size(a_mm: np.ndarray, b_mm: np.ndarray) -> np.ndarray:
    """Whether the extents (n, 2) of two bodies agree, both of them."""
    low, high = np.minimum(a_mm, b_mm), np.maximum(a_mm, b_mm)
    fits: np.ndarray = (high <= MAX_EXTENT_RATIO * low).all(axis=1)
    return fits


def _stretch(a: np.ndarray, b: np.ndarray, places: tuple[int, int], upside_down: bool) -> float:
    """Best correlation of all slabs that overlap where `places` (in a, in b) lie on each other.

    Mirrored sideways in any way, and moved by half a slab or a whole one. How the slabs differ from
    their mean over the height has to be alike too: bodies of one shape are no copies. -1 without.
    """
    place = places[0]
    if upside_down:
        a, place = a[::-1], len(a) - 1 - place
    best = -1.0
    halves = (b[:-1].astype(np.float32) + b[1:]) / 2
    for other, shift in itertools.product((b, halves), (-1, 0, 1)):
        lag = places[1] - place + shift
        start, stop = max(lag, 0), min(lag + len(a), len(other))
        if stop - start < max(MIN_ROWS, len(a) / 2):
            continue
        own, part = a[start - lag : stop - lag], other[start:stop]
        if _correlate(own - own.mean(axis=0), part - part.mean(axis=0)) >= MIN_CHANGE:
            best = max(best, _correlate(own, part))
    return best


def _correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two stacks of slabs, mirrored sideways in the best way."""
    zero = np.zeros(1, int)
    return float(_best_mirrored(_normalized(a[None]), _normalized(b[None]), zero, zero, (2, 3))[0])


def _normalized(values: np.ndarray) -> np.ndarray:
    """Each entry of the first axis with mean 0 and length 1, so that a product is a correlation.

    Constant ones become 0: they are like nothing.
    """
    rows = values.reshape(len(values), -1).astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(length > 0, length, 1)).reshape(values.shape)


def _mirror_free(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """(n, ...) -> (n, m): the mean over all mirrorings along `axes`, each value once.

    A projection: the distance of two of these is never larger than that of what they are made of,
    however it is mirrored. So a pair that is too far apart here needs no closer look.
    """
    for axis in axes:
        half = np.take(values, range(values.shape[axis] // 2), axis)
        other = np.take(np.flip(values, axis), range(values.shape[axis] // 2), axis)
        values = (half + other) / np.sqrt(2)
    return values.reshape(len(values), -1)


def _within(
    a: np.ndarray, b: np.ndarray, squared: float, ends: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows i of `a` and j of `b` whose squared distance is at most `squared`, in batches.

    `ends`: how many of the first rows of `b` are worth it for each of `a`; a batch may hold more.
    """
    ends = np.full(len(a), len(b)) if ends is None else ends
    # one product gives half the squared distance, below 0 where it is small enough
    one = np.ones((len(a), 1), np.float32)
    first = np.hstack([-a, (a * a).sum(axis=1, keepdims=True) / 2 - (squared + 1e-5) / 2, one])
    second = np.hstack([b, np.ones((len(b), 1), np.float32), (b * b).sum(1, keepdims=True) / 2]).T
    step = max(1, min(256, _NUMBERS_AT_ONCE // max(1, len(b))))
    for start in range(0, len(a), step):
        part = slice(start, start + step)
        near = first[part] @ second[:, : ends[part].max(initial=0)] <= 0
        i, j = np.divmod(np.flatnonzero(near), max(1, near.shape[1]))
        if len(i):
            yield i + start, j


def _best_mirrored(
    a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray, axes: tuple[int, ...]
) -> np.ndarray:
    """Correlation of a[i] and b[j] in the best mirroring along `axes`."""
    best = np.full(len(i), -1.0, np.float32)
    step = max(1, _NUMBERS_AT_ONCE // (4 * max(1, a[:1].size)))
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        own = a[i[part]].reshape(len(i[part]), -1)
        other = b[j[part]]
        for count in range(len(axes) + 1):
            for flipped in itertools.combinations(axes, count):
                turned = np.flip(other, flipped).reshape(len(own), -1)
                np.maximum(best[part], np.einsum("nk,nk->n", own, turned), out=best[part])
    return best


def _keep_best(
    found: Pairs, i: np.ndarray, j: np.ndarray, values: np.ndarray, least: float
) -> None:
    for k in np.flatnonzero(values >= least):
        pair = int(i[k]), int(j[k])
        found[pair] = max(float(values[k]), found.get(pair, -1.0))
