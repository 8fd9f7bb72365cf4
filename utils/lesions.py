"""Lesions of a label and findings of a result: connected parts, longest axis, which hits which."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import filled_box
from utils.postprocess import CONNECTIVITY_26

MIN_HIT_IOU = 0.1  # PI-CAI's and PANORAMA's rule, as picai_eval's default


Places = tuple[np.ndarray, ...]  # a component: its voxels' indices z, y and x, (n,) each


@dataclass(frozen=True)
class Matches:
    """Which findings hit which lesions.

    `of_lesion`: for each lesion the number of the finding that hits it, from 0; -1: missed. `iou`:
    of the two, 0 where it is missed. `false`: numbers of the findings that overlap no lesion by
    `MIN_HIT_IOU`; a second finding that does is neither a hit nor false.
    """

    of_lesion: tuple[int, ...]
    iou: tuple[float, ...]
    false: tuple[int, ...]


def split_components(mask: np.ndarray) -> list[Places]:
    """The 26-connected components of a bool mask (z, y, x)."""
    from scipy import ndimage

    box = filled_box(mask)
    if box is None:
        return []
    labels, count = ndimage.label(mask[box], structure=CONNECTIVITY_26)
    start = [inside.start for inside in box]
    found = []
    for number, inside in enumerate(ndimage.find_objects(labels), 1):
        places = np.nonzero(labels[inside] == number)
        found.append(tuple(p + a + s.start for p, a, s in zip(places, start, inside, strict=True)))
    assert len(found) == count
    return found


def longest_axis(places: Places, spacing: tuple[float, float, float]) -> float:
    """The largest distance between two voxel centers of a component, mm."""
    from scipy.spatial import ConvexHull, QhullError
    from scipy.spatial.distance import pdist

    z, y, x = places
    lines = np.unique(np.stack([z, y], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((x, lines))
    ends = np.flatnonzero(np.diff(lines[order], prepend=-1, append=-1))
    kept = order[np.unique(np.concatenate([ends[:-1], ends[1:] - 1]))]  # both ends of each line
    points = np.stack(places, axis=1)[kept] * np.array(spacing)
    if len(points) > 3:
        with contextlib.suppress(QhullError):  # flat: in one plane, so its points are few
            points = points[ConvexHull(points).vertices]
    return float(pdist(points).max()) if len(points) > 1 else 0.0


def match_findings(
    findings: Sequence[Places], lesions: Sequence[Places], shape: tuple[int, ...]
) -> Matches:
    """Match the components of a result with those of a label, in a volume of `shape`.

    As many pairs with an intersection over union of `MIN_HIT_IOU` or more as there can be, then of
    the largest sum: picai_eval's rule.
    """
    from scipy.optimize import linear_sum_assignment

    overlap = np.zeros((len(lesions), len(findings)))
    numbers = np.zeros(shape, np.int32)
    sizes = np.array([len(places[0]) for places in findings], dtype=float)
    for number, places in enumerate(findings, 1):
        numbers[places] = number
    for row, places in enumerate(lesions):
        shared = np.bincount(numbers[places], minlength=len(findings) + 1)[1:]
        overlap[row] = shared / (sizes + len(places[0]) - shared)
    hits = overlap >= MIN_HIT_IOU
    pairs = zip(
        *linear_sum_assignment(np.where(hits, 1 + overlap, 0.0), maximize=True), strict=True
    )
    matched = {int(lesion): int(finding) for lesion, finding in pairs if hits[lesion, finding]}
    return Matches(
        of_lesion=tuple(matched.get(number, -1) for number in range(len(lesions))),
        iou=tuple(
            float(overlap[number, matched[number]]) if number in matched else 0.0
            for number in range(len(lesions))
        ),
        false=tuple(np.flatnonzero(~hits.any(axis=0)).tolist()),
    )
