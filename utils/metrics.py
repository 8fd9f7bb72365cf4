"""Metrics of the protocol (Sec. IV-B): one case at a time, on the original image's grid, in mm.

Masks are bool (z, y, x), spacings mm in the same order; nothing is resampled. ASD and HD are what
medpy computes as `assd` and `hd95`: a surface voxel is a voxel of the mask with a background
6-neighbor (beyond the volume is background), and the distances from each surface to the other are
pooled. A case is always scored. If the prediction, the label or both are empty: DSC, recall and
precision 0, ASD 40 mm, HD 100 mm; only the centroid distance is nan.

A mask fills about a hundredth of its CT at most, so each metric reads the volumes once, to find the
box around both masks (`crop_to_both`), and works inside it; several metrics in a row are cheapest
on the crop. Distances are exact, found where they are cheapest: near voxels by trying the offsets
around them (`_pop_near`), far ones by distance transforms or by a tree (`_far_distances`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from utils.boxes import filled_box

Spacing = tuple[float, float, float]
Planes = tuple[tuple[int, int, int], float, float]  # axes' order, spacing across, spacing within

EMPTY_ASD_MM = 40.0  # Sec. IV-B: standardized values where a surface is empty
EMPTY_HD95_MM = 100.0
PERCENT = 95.0

# What follows steers speed only, never a result; seconds as measured on one core.
NEAR_OFFSETS = 250  # the ball of offsets tried around each surface voxel has about this many
NEAR_BLOCK = 32  # after so many offsets: do they still find enough?
NEAR_SHARE = 0.1  # enough: a tenth of the voxels that were left before the block
PLANE_SECONDS_PER_VOXEL = 2e-8
PLANE_SECONDS_PER_LOOKUP = 3e-9
VOLUME_SECONDS_PER_VOXEL = 6e-8
TREE_SECONDS_PER_QUERY = 1e-6
TREE_SECONDS_PER_PAIR = 5e-10  # a far surface has many nearly nearest voxels, all looked at


@dataclass(frozen=True)
class SurfaceMetrics:
    """Distances between two surfaces, mm.

    `asd_mm`: mean of both directed sets pooled; `hd95_mm`: 95th percentile of both pooled;
    `hd95_max_mm`: the larger of the two directed sets' 95th percentiles.
    """

    asd_mm: float
    hd95_mm: float
    hd95_max_mm: float


def crop_to_both(pred: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Views of both masks, bool (z, y, x), in the smallest box that holds both.

    Every metric of the crops is the metric of the volumes. Two empty masks have an empty box.
    Raises ValueError for other types or shapes.
    """
    _check_masks(pred, mask)
    boxes = [box for box in (filled_box(pred), filled_box(mask)) if box is not None]
    if not boxes:
        return pred[:0, :0, :0], mask[:0, :0, :0]
    around = tuple(
        slice(min(s.start for s in sides), max(s.stop for s in sides))
        for sides in zip(*boxes, strict=True)
    )
    return pred[around], mask[around]


def dsc(pred: np.ndarray, mask: np.ndarray) -> float:
    """Dice similarity coefficient, percent; 0 where either mask is empty. Bool (z, y, x) both."""
    pred, mask = crop_to_both(pred, mask)
    total = np.count_nonzero(pred) + np.count_nonzero(mask)
    return 200.0 * np.count_nonzero(pred & mask) / total if total > 0 else 0.0


def recall(pred: np.ndarray, mask: np.ndarray) -> float:
    """Share of the label's voxels that the prediction holds, in [0, 1]; 0 for an empty label."""
    pred, mask = crop_to_both(pred, mask)
    total = np.count_nonzero(mask)
    return np.count_nonzero(pred & mask) / total if total > 0 else 0.0


def precision(pred: np.ndarray, mask: np.ndarray) -> float:
    """Share of the prediction's voxels that the label holds, in [0, 1]; 0 for an empty one."""
    pred, mask = crop_to_both(pred, mask)
    total = np.count_nonzero(pred)
    return np.count_nonzero(pred & mask) / total if total > 0 else 0.0


def centroid_distance(pred: np.ndarray, mask: np.ndarray, spacing: Spacing) -> float:
    """Distance between the two masks' centers of mass (Fig. 7), mm; nan where either is empty."""
    pred, mask = crop_to_both(pred, mask)
    _check_spacing(spacing)
    if not pred.any() or not mask.any():
        return float("nan")
    return float(np.linalg.norm((_centroid(pred) - _centroid(mask)) * spacing))


def asd(pred: np.ndarray, mask: np.ndarray, spacing: Spacing) -> float:
    """Average symmetric surface distance, mm (medpy 0.5's `assd`); 40 where a mask is empty."""
    return surface_metrics(pred, mask, spacing).asd_mm


def hd95(pred: np.ndarray, mask: np.ndarray, spacing: Spacing) -> float:
    """95th percentile of the pooled surface distances, mm (medpy's `hd95`); 100 where empty."""
    return surface_metrics(pred, mask, spacing).hd95_mm


def hd95_max(pred: np.ndarray, mask: np.ndarray, spacing: Spacing) -> float:
    """The larger of the two directed 95th percentiles, mm; 100 where a mask is empty."""
    return surface_metrics(pred, mask, spacing).hd95_max_mm


def surface_metrics(pred: np.ndarray, mask: np.ndarray, spacing: Spacing) -> SurfaceMetrics:
    """ASD, pooled HD and the larger directed HD in one pass.

    `pred`, `mask`: bool (z, y, x); `spacing`: mm (z, y, x). Where either mask is empty: 40, 100
    and 100 mm. Raises ValueError for other types, shapes or spacings.
    """
    pred, mask = crop_to_both(pred, mask)
    _check_spacing(spacing)
    if not pred.any() or not mask.any():
        return SurfaceMetrics(EMPTY_ASD_MM, EMPTY_HD95_MM, EMPTY_HD95_MM)
    offsets, lengths = _ball(spacing)
    pads = [(int(reach), int(reach)) for reach in np.abs(offsets).max(axis=0)]
    surfaces = [_surface(np.pad(m, pads)) for m in (pred, mask)]
    there = _distances(surfaces[0], surfaces[1], spacing, offsets, lengths)
    back = _distances(surfaces[1], surfaces[0], spacing, offsets, lengths)
    pooled = (np.concatenate([there[0], back[0]]), np.concatenate([there[1], back[1]]))
    return SurfaceMetrics(
        asd_mm=float(np.average(pooled[0], weights=pooled[1])),
        hd95_mm=_percentile(*pooled),
        hd95_max_mm=max(_percentile(*there), _percentile(*back)),
    )


def _check_masks(pred: np.ndarray, mask: np.ndarray) -> None:
    for name, array in (("pred", pred), ("mask", mask)):
        if array.dtype != np.bool_ or array.ndim != 3:
            raise ValueError(
                f"{name} must be a bool array (z, y, x), not {array.dtype} of shape {array.shape}"
            )
    if pred.shape != mask.shape:
        raise ValueError(
            f"pred {pred.shape} and mask {mask.shape} differ in shape: "
            "bring the prediction to the label's grid first"
        )


def _check_spacing(spacing: Spacing) -> None:
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing must be three positive lengths in mm (z, y, x), not {spacing}")


def _centroid(mask: np.ndarray) -> np.ndarray:
    """Center of mass in voxels, from the three marginal counts."""
    counts = [mask.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return np.array([np.average(np.arange(len(n)), weights=n) for n in counts])


def _ball(spacing: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Voxel offsets (n, 3) nearer than any offset left out, sorted by length; and lengths, mm."""
    radius = (NEAR_OFFSETS * np.prod(spacing) * 3 / (4 * np.pi)) ** (1 / 3)
    reach = [max(1, int(radius / s)) for s in spacing]
    complete = min((r + 1) * s for r, s in zip(reach, spacing, strict=True))
    grid = np.indices([2 * r + 1 for r in reach]).reshape(3, -1).T - reach
    lengths = np.sqrt(((grid * spacing) ** 2).sum(axis=1))
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] < complete]
    return grid[order], lengths[order]


def _surface(padded: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a background 6-neighbor; the mask has an empty rim."""
    inner = padded.copy()
    flat, result = padded.reshape(-1), inner.reshape(-1)
    for stride in (padded.shape[1] * padded.shape[2], padded.shape[2], 1):
        result[:-stride] &= flat[stride:]
        result[stride:] &= flat[:-stride]
    return padded ^ inner


def _distances(
    source: np.ndarray,
    target: np.ndarray,
    spacing: Spacing,
    offsets: np.ndarray,
    lengths: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each voxel of `source` to `target`'s nearest, as values and their counts."""
    left, found = _pop_near(source, target, offsets, lengths)
    values, counts = lengths[: len(found)], found
    if len(left) > 0:
        far = _far_distances(left, target, spacing)
        values = np.concatenate([values, far])
        counts = np.concatenate([counts, np.ones(len(far), dtype=np.int64)])
    return values, counts


def _pop_near(
    source: np.ndarray, target: np.ndarray, offsets: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Try offsets, shortest first: the voxels left over (flat indices), how many each found."""
    left = np.flatnonzero(source)
    flat = target.reshape(-1)
    steps = offsets @ np.array([target.shape[1] * target.shape[2], target.shape[2], 1])
    found = np.zeros(len(steps), dtype=np.int64)
    before = len(left)
    for i, step in enumerate(steps):
        hit = flat[left + step]
        found[i] = np.count_nonzero(hit)
        if found[i] > 0:
            left = left[~hit]
        if len(left) == 0:
            break
        if (i + 1) % NEAR_BLOCK == 0:
            if len(left) > (1 - NEAR_SHARE) * before:
                break
            before = len(left)
    return left, found


def _far_distances(queries: np.ndarray, target: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Distance from each query (flat index) to the nearest voxel of `target`, mm."""
    from scipy import ndimage
    from scipy.spatial import cKDTree

    points = np.flatnonzero(target)
    planes = _square_planes(spacing)
    by_tree = len(queries) * (TREE_SECONDS_PER_QUERY + TREE_SECONDS_PER_PAIR * len(points))
    if planes is not None:
        by_planes = PLANE_SECONDS_PER_VOXEL * target.size
        by_planes += PLANE_SECONDS_PER_LOOKUP * target.shape[planes[0][0]] * len(queries)
        if by_planes < by_tree:
            return _distances_by_planes(queries, target, planes)
    elif VOLUME_SECONDS_PER_VOXEL * target.size < by_tree:
        volume = ndimage.distance_transform_edt(~target, sampling=spacing)
        return volume.reshape(-1)[queries]
    where = [np.stack(np.unravel_index(flat, target.shape), 1) for flat in (points, queries)]
    tree = cKDTree(where[0] * spacing, balanced_tree=False, compact_nodes=False)
    return tree.query(where[1] * spacing)[0]


def _square_planes(spacing: Spacing) -> Planes | None:
    """The planes whose pixels are square, in CT the slices; None where no two spacings agree."""
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        if math.isclose(spacing[order[1]], spacing[order[2]], rel_tol=1e-8):
            return order, spacing[order[0]], spacing[order[1]]
    return None


def _distances_by_planes(queries: np.ndarray, target: np.ndarray, planes: Planes) -> np.ndarray:
    """Exact transform of each plane that holds a target, then the best plane of each query.

    A plane's squared distances are whole numbers of pixels, which float32 holds exactly.
    """
    import cv2

    order, across, within = planes
    volume = np.ascontiguousarray(target.transpose(order))
    filled = np.flatnonzero(volume.any(axis=(1, 2)))
    squares = np.empty((len(filled), volume[0].size))
    for row, index in zip(squares, filled, strict=True):
        background = (~volume[index]).view(np.uint8)
        distance = cv2.distanceTransform(background, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        row[:] = np.rint(distance.astype(np.float64).reshape(-1) ** 2) * within**2
    where = np.unravel_index(queries, target.shape)
    pixels = where[order[1]] * volume.shape[2] + where[order[2]]
    by_plane = np.argsort(where[order[0]], kind="stable")
    indices, starts = np.unique(where[order[0]][by_plane], return_index=True)
    distances = np.empty(len(queries))
    for index, here in zip(indices, np.split(by_plane, starts[1:]), strict=True):
        steps = ((filled - index) * across) ** 2
        distances[here] = _nearest_plane(squares, steps, pixels[here])
    return np.sqrt(distances)


def _nearest_plane(squares: np.ndarray, steps: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Smallest in-plane square (planes, pixels) plus step of its plane, at some pixels."""
    dense = 2 * len(pixels) > squares.shape[1]  # then whole planes are cheaper than look-ups
    best = np.full(squares.shape[1] if dense else len(pixels), np.inf)
    for nearest in np.argsort(steps):
        if steps[nearest] >= best.max():
            break
        row = squares[nearest] if dense else squares[nearest].take(pixels)
        np.minimum(best, row + steps[nearest], out=best)
    return best[pixels] if dense else best


def _percentile(values: np.ndarray, counts: np.ndarray) -> float:
    """95th percentile with linear interpolation, as `np.percentile` of the repeated values."""
    order = np.argsort(values, kind="stable")
    until = np.cumsum(counts[order])
    rank = PERCENT / 100 * (until[-1] - 1)
    lower, upper = values[order][
        np.searchsorted(until, [np.floor(rank), np.ceil(rank)], side="right")
    ]
    return float(lower + (rank - np.floor(rank)) * (upper - lower))
