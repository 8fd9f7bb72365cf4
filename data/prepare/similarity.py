"""Which scans of two lists are alike: one search per sign of `data.prepare.signature`.

Each search goes over all pairs of ten thousand scans within seconds: products of matrices leave
few, and only those are compared in full.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.prepare.mirrored import GrayImages, ImageIndex, best_mirrored, correlate, mirror_parts
from data.prepare.signature import Signature

Pairs = dict[tuple[int, int], float]  # (place in a, place in b) -> similarity

MIN_SHARED = 6  # hashes; different patients share none (benchmarks/bench_duplicates.py)
MIN_THUMBNAIL = 0.99  # correlation; resampled copies reach 0.993, different patients 0.96
MIN_SLABS = 0.965  # correlation; cropped, resampled copies reach 0.97, different patients 0.94
MIN_CHANGE = 0.92  # the same without what all slabs share; copies reach 0.94, patients 0.87
MIN_ROWS = 8  # slabs that two scans share: 64 mm of height
MAX_EXTENT_RATIO = 1.06  # between the heights, and the widths, of two bodies
_MIN_TRIPLE = 0.955  # correlation of three slabs: a copy reaches 0.99
_GAP = 2  # slabs from one of the three to the next
_MIRRORED = (2, 3)  # of slabs: sideways; upside down is asked for apart


def match_fingerprints(a: Sequence[Signature], b: Sequence[Signature]) -> Pairs:
    """Pairs that share hashes; similarity: the part of the smaller scan that is in the other."""
    from scipy import sparse

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
    first, second = (np.stack([signature.thumbnail for signature in scans]) for scans in (a, b))
    index = ImageIndex(GrayImages(first, np.arange(len(a)), (1, 2, 3)), MIN_THUMBNAIL)
    found: Pairs = {}
    for axes in itertools.permutations((1, 2, 3)):
        turned = GrayImages(second.transpose(0, *axes), np.arange(len(b)), (1, 2, 3))
        for j, i in index.near(turned):
            others = _other(a, i, b, j)
            i, j = i[others], j[others]
            values = correlate(index.images, i, turned, j)
            for k in np.flatnonzero(values >= MIN_THUMBNAIL):
                pair = int(i[k]), int(j[k])
                found[pair] = max(float(values[k]), found.get(pair, -1.0))
    return found


def match_slabs(a: Sequence[Signature], b: Sequence[Signature]) -> Pairs:
    """Pairs of which a stretch of slabs correlates: copies that were cropped along z and changed.

    The stretch has 64 mm and half of the shorter scan at least, in any mirroring. The middle of the
    shorter scan then lies in it and is looked for in the longer one.
    """
    found = _find_middles(a, b, False)
    swapped = found if a is b else _find_middles(b, a, True)
    return {(j, i): value for (i, j), value in swapped.items()} | found


@dataclass(frozen=True)
class _Triples:
    """Three slabs, `_GAP` apart, around each slab of many scans: how they look, and where."""

    images: GrayImages
    extents_mm: np.ndarray
    owner: np.ndarray
    middle: np.ndarray

    @staticmethod
    def of(signatures: Sequence[Signature], only_middle: bool) -> _Triples | None:
        """All triples of all scans that are long enough, or the one in the middle of each.

        None where no scan has `MIN_ROWS` slabs.
        """
        rows, owners, middles, start = [], [], [], 0
        long_enough = [k for k, scan in enumerate(signatures) if len(scan.slabs) >= MIN_ROWS]
        if not long_enough:
            return None
        for number in long_enough:
            n = len(signatures[number].slabs)
            places = np.array([n // 2]) if only_middle else np.arange(_GAP, n - _GAP)
            rows.append(start + places)
            owners.append(np.full(len(places), number))
            middles.append(places)
            start += n
        middle_rows = np.concatenate(rows)
        three = np.stack([middle_rows - _GAP, middle_rows, middle_rows + _GAP], axis=1)
        slabs = np.concatenate([signatures[k].slabs for k in long_enough])
        extents_mm = np.concatenate([signatures[k].extents_mm for k in long_enough])
        return _Triples(
            GrayImages(slabs, three, _MIRRORED),
            extents_mm[middle_rows],
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
    index = ImageIndex(triples.images, _MIN_TRIPLE)
    probe_slabs = np.array([len(scan.slabs) for scan in shorter])[probes.owner]
    triple_slabs = np.array([len(scan.slabs) for scan in longer])[triples.owner]
    found: Pairs = {}
    for upside_down in (False, True):
        rows = probes.images.rows[:, ::-1] if upside_down else probes.images.rows
        turned = GrayImages(probes.images.grays, rows, _MIRRORED)
        best: dict[tuple[int, int], tuple[float, int, int]] = {}  # of each pair of scans
        for i, j in index.near(turned):
            fits = _other(shorter, probes.owner[i], longer, triples.owner[j])
            fits &= triple_slabs[j] >= probe_slabs[i] + strictly
            fits &= _same_size(probes.extents_mm[i], triples.extents_mm[j])
            i, j = i[fits], j[fits]
            values = correlate(turned, i, triples.images, j)
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


def _other(
    a: Sequence[Signature], i: np.ndarray, b: Sequence[Signature], j: np.ndarray
) -> np.ndarray:
    """Whether a[i] and b[j] are two scans: of one list each is like itself."""
    return np.not_equal(i, j) if a is b else np.ones(len(i), bool)


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
    parts = mirror_parts(a[None], _MIRRORED), mirror_parts(b[None], _MIRRORED)
    return float(best_mirrored(*parts)[0])
