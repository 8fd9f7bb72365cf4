"""Whether a label can be right: does it follow an organ, and are its lesions where lesions are?

A right label separates two kinds of tissue: what is inside differs little from its own median, what
is a few millimeters outside differs more. `contrast` is the difference of the two in HU, `ratio`
their quotient. A mirrored or shifted label cuts through liver, bowel and fat alike, and the same
outline has more contrast where it belongs. benchmarks/bench_labels.py measures both errors of the
test; docs/data.md has the figures.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Case, Triple
from data.intensity import HU_WINDOW
from data.roi import Box, bounding_box

# The test of the place. Values are chosen on phantoms, see benchmarks/bench_labels.py.
GRID_MM = 2.5  # voxels are averaged in blocks of about this size: less noise, one cost for all
RING_MM = (2.0, 8.0)  # what counts as outside: nearer lie partly filled voxels
MAX_POINTS = 3000  # taken at random of each, inside and outside
MIN_POINTS = 30  # fewer say nothing
MIN_ML = 3.0  # nor does a label smaller than this, which is no pancreas
MIN_SEEN = (0.9, 0.5)  # of the points inside and outside must lie in the image
CAP_HU = 150.0  # metal, gas and bone count no more than this
NOISE_HU = 5.0  # added to the denominator of the ratio
SHIFTS_MM = (-24.0, -16.0, -8.0, 0.0, 8.0, 16.0, 24.0)
MIN_GAIN_HU = 10.0  # another place must have this much more contrast,
MIN_GAIN = 1.5  # and be this many times as good,
MIN_OTHER_RATIO = 1.5  # and follow an organ itself
MIN_RATIO = 1.3  # below, a label follows no organ

# Lesions and volumes.
PANCREAS_ML = (5.0, 500.0)  # with its lesions
SOFT_TISSUE_HU = (-150, 350)  # pancreas, its fat, contrast and calcium at the edges
MIN_SOFT_PART = 0.5  # of a label's voxels; a mirrored label lies on bowel gas, lung and bone
FEW_VOXELS = 10
FAR_MM = 5.0  # from a lesion to the pancreas
FEW_SLICES = 3
MIN_SLICES = 8  # fewer do not tell whether slices alternate
MIN_ALTERNATION = 1.05  # difference of neighbors to that of every second slice; a body: 0.5 to 1
MIN_RANGE_HU = 10.0  # of the body after the window
BODY_HU = -500.0  # brighter is body, darker is air and lung
SAMPLED_VOXELS = 200_000

AXES = ("head-feet", "front-back", "left-right")
DIRECTIONS = (("feet", "head"), ("front", "back"), ("right", "left"))  # toward lower, higher index


@dataclass(frozen=True)
class Fit:
    """How well an outline fits an image: `contrast` in HU, `ratio` outside to inside."""

    contrast: float
    ratio: float


NO_FIT = Fit(-np.inf, 0)


def judge_case(case: Case) -> tuple[str, ...]:
    """All warnings on a case's image and label, as training and evaluation print them."""
    found = check_image(case.image_hu)
    if case.label is None:
        return found
    return (*found, *check_label(case.image_hu, case.label, case.spacing))


def check_image(image_hu: np.ndarray) -> tuple[str, ...]:
    """Warnings on an image alone, HU (z, y, x): few slices; slices of two scans in turn; nothing
    to see in the window.
    """
    found = []
    slices = min(image_hu.shape)
    if slices <= FEW_SLICES:
        axis = AXES[int(np.argmin(image_hu.shape))]
        found.append(
            f"has {slices} slices in the direction {axis}: no volume, or a scout; give the whole "
            "series, or exclude the case"
        )
    near, far = slice_differences(image_hu)
    if near > MIN_ALTERNATION * far:
        found.append(
            f"its slices differ more from the next ({near:.0f} HU) than from the next but one "
            f"({far:.0f} HU): two phases or two scans whose slices alternate?"
        )
    step = max(1, round((image_hu.size / SAMPLED_VOXELS) ** (1 / 3)))
    body = image_hu[::step, ::step, ::step]
    body = body[body > BODY_HU]
    low, high = np.percentile(np.clip(body, *HU_WINDOW), (1, 99)) if body.size else (0, 0)
    if high - low < MIN_RANGE_HU:
        found.append(
            f"the body is constant after the window of {HU_WINDOW[0]:.0f} to {HU_WINDOW[1]:.0f} HU "
            f"(a span of {high - low:.3g} HU): are these Hounsfield units? convert it again, or "
            "exclude it"
        )
    return tuple(found)


def slice_differences(image_hu: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference, HU within the window, of slices one and two steps apart along z.

    A body changes more over two steps than over one; taking turns, two scans do not. 0, 0 where
    there are fewer than `MIN_SLICES` slices.
    """
    if image_hu.shape[0] < MIN_SLICES:
        return 0.0, 0.0
    step = max(1, round((image_hu.size / SAMPLED_VOXELS / 4) ** (1 / 2)))
    thin = np.clip(image_hu[:, ::step, ::step], *HU_WINDOW).astype(np.float32)
    near, far = (float(np.abs(thin[n:] - thin[:-n]).mean()) for n in (1, 2))
    return near, far


def check_label(image_hu: np.ndarray, label: np.ndarray, spacing: Triple) -> tuple[str, ...]:
    """Warnings on a label (0, 1 pancreas, 2 tumor) of an image in HU, both (z, y, x), mm.

    Each sentence says what was seen and the likely cause. An empty label has none.
    """
    box = bounding_box(label > 0)
    if box is None:
        return ()
    found = check_tissue(image_hu[box.slices], label[box.slices], spacing)
    found += check_lesions(label[box.slices], spacing)
    if not (label[box.slices] == LABEL_PANCREAS).any():
        return found  # a lesion alone need not differ from what is around it
    return (*found, *check_place(image_hu, label, spacing, box))


def check_tissue(image_hu: np.ndarray, label: np.ndarray, spacing: Triple) -> tuple[str, ...]:
    """Warnings on a label's volume and on what lies under it."""
    found = []
    pancreas_ml = np.count_nonzero(label) * float(np.prod(spacing)) / 1000
    if not PANCREAS_ML[0] <= pancreas_ml <= PANCREAS_ML[1]:
        found.append(f"pancreas with lesion has {pancreas_ml:.1f} ml; look at the label")
    under = image_hu[label > 0]
    soft = float(np.mean((under >= SOFT_TISSUE_HU[0]) & (under <= SOFT_TISSUE_HU[1])))
    if soft < MIN_SOFT_PART:
        found.append(
            f"only {100 * soft:.0f} % of its label lie on soft tissue "
            f"({SOFT_TISSUE_HU[0]} to {SOFT_TISSUE_HU[1]} HU): is it mirrored or another case's?"
        )
    return tuple(found)


def check_lesions(label: np.ndarray, spacing: Triple) -> tuple[str, ...]:
    """Warnings on the lesions: all of it, larger than the pancreas, of few voxels, far away."""
    from scipy import ndimage
    from scipy.spatial import KDTree

    tumor, pancreas = label == LABEL_TUMOR, label == LABEL_PANCREAS
    if not tumor.any():
        return ()
    if not pancreas.any():
        return (
            "every labeled voxel is tumor, there is no pancreas around it: are the label's values "
            "mapped rightly (label_map), or is only the lesion outlined?",
        )
    found = []
    per_ml = float(np.prod(spacing)) / 1000
    volumes = np.count_nonzero(tumor) * per_ml, np.count_nonzero(pancreas) * per_ml
    if volumes[0] > volumes[1]:
        found.append(
            f"its tumor ({volumes[0]:.1f} ml) is larger than the pancreas around it "
            f"({volumes[1]:.1f} ml): are the two values exchanged (label_map)?"
        )
    parts, count = ndimage.label(tumor, np.ones((3, 3, 3)))
    tree = KDTree(_border(pancreas) * spacing)
    for number, place in enumerate(ndimage.find_objects(parts), start=1):
        inside = parts[place] == number
        voxels = int(np.count_nonzero(inside))
        offset = [axis.start for axis in place]
        gap_mm = float(tree.query((np.argwhere(inside) + offset) * spacing)[0].min())
        name = "its lesion" if count == 1 else f"lesion {number} of {count}"
        if voxels < FEW_VOXELS:
            found.append(
                f"{name} has {voxels} voxels ({1000 * voxels * per_ml:.3g} mm3): a stray mark?"
            )
        if gap_mm > FAR_MM + max(spacing):
            found.append(
                f"{name} lies {gap_mm:.0f} mm away from the pancreas: a metastasis, a stray mark, "
                "or two labels of different geometry joined?"
            )
    return tuple(found)


def _border(mask: np.ndarray) -> np.ndarray:
    """Voxels (n, 3) of the mask that have a neighbor outside it."""
    from scipy import ndimage

    return np.argwhere(mask & ~ndimage.binary_erosion(mask))


def check_place(
    image_hu: np.ndarray, label: np.ndarray, spacing: Triple, box: Box
) -> tuple[str, ...]:
    """A warning where the label would fit better mirrored or shifted, or fits nowhere.

    `box`: around the label. A label too small to tell has none.
    """
    if np.count_nonzero(label[box.slices]) * np.prod(spacing) < 1000 * MIN_ML:
        return ()
    factors = [max(1, round(GRID_MM / step)) for step in spacing]
    coarse = average_blocks(image_hu, factors)
    steps = np.multiply(factors, spacing)
    inside, outside = _points(label, box, factors, steps, coarse.shape)
    given = measure_fit(coarse, inside, outside)
    if given is NO_FIT:
        return ()
    mirrored, axes = _best_mirroring(coarse, inside, outside)
    shifted, shift_mm = _best_shift(coarse, inside, outside, steps)
    if _is_better(mirrored, given) and mirrored.contrast >= shifted.contrast:
        words = " and ".join(AXES[axis] for axis in axes)
        cause = f"would fit its image better mirrored {words}: it is mirrored against it"
    elif _is_better(shifted, given):
        cause = (
            f"would fit its image better {_in_words(shift_mm)}: it is shifted against it, or "
            "another case's"
        )
    elif given.ratio < MIN_RATIO:
        cause = "follows no organ of its image: it is another case's, or its values are no outline"
    else:
        return ()
    best = max(given.contrast, mirrored.contrast, shifted.contrast)
    return (
        f"its label {cause} (contrast of inside and outside {given.contrast:.0f} HU, elsewhere up "
        f"to {best:.0f} HU); look at both, and correct the label or exclude the case",
    )


def _is_better(other: Fit, given: Fit) -> bool:
    gain = other.contrast - given.contrast
    return (
        gain > MIN_GAIN_HU
        and other.contrast > MIN_GAIN * given.contrast
        and other.ratio > MIN_OTHER_RATIO
    )


def average_blocks(image_hu: np.ndarray, factors: list[int]) -> np.ndarray:
    """float32 means over blocks of `factors` voxels; what is left over at the end is dropped."""
    shape = [max(1, n // f) for n, f in zip(image_hu.shape, factors, strict=True)]
    z, y, x = (min(f, n) for n, f in zip(image_hu.shape, factors, strict=True))
    means = np.empty(shape, np.float32)
    for number in range(shape[0]):  # slab by slab: never a second copy of a large CT
        slab = image_hu[number * z : (number + 1) * z, : shape[1] * y, : shape[2] * x]
        total = slab.sum(axis=0, dtype=np.float32)
        means[number] = total.reshape(shape[1], y, shape[2], x).sum(axis=(1, 3)) / (z * y * x)
    return means


def _points(
    label: np.ndarray, box: Box, factors: list[int], steps: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Block indices (n, 3) inside the label and in a ring around it, at most `MAX_POINTS` each."""
    from scipy import ndimage

    first = np.floor_divide(box.start, factors)
    last = np.minimum(-np.floor_divide(np.negative(box.stop), factors), shape)
    if (first >= last).any():  # in the part of the volume that fills no block
        return np.empty((0, 3), int), np.empty((0, 3), int)
    voxels = tuple(slice(a * f, b * f) for a, b, f in zip(first, last, factors, strict=True))
    covered = average_blocks((label[voxels] > 0).astype(np.uint8), factors)
    margin = np.ceil(RING_MM[1] / steps).astype(int) + 1
    mask = np.pad(covered >= 0.5, [(n, n) for n in margin])
    distance = ndimage.distance_transform_edt(~mask, sampling=steps)
    ring = mask.any() & (distance > RING_MM[0]) & (distance <= RING_MM[1])
    rng = np.random.default_rng(0)
    found = []
    for part in (mask, ring):
        points = np.argwhere(part) + first - margin
        if len(points) > MAX_POINTS:
            points = points[rng.choice(len(points), MAX_POINTS, replace=False)]
        found.append(points)
    return found[0], found[1]


def measure_fit(image: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> Fit:
    """How far the points outside lie from the median of those inside, against those inside.

    `NO_FIT` where there are too few points in the image.
    """
    within, around = _values(image, inside), _values(image, outside)
    if len(within) < max(MIN_POINTS, MIN_SEEN[0] * len(inside)):
        return NO_FIT
    if len(around) < max(MIN_POINTS, MIN_SEEN[1] * len(outside)):
        return NO_FIT
    median = np.median(within)
    near = float(np.minimum(np.abs(within - median), CAP_HU).mean())
    far = float(np.minimum(np.abs(around - median), CAP_HU).mean())
    return Fit(far - near, far / (near + NOISE_HU))


def _values(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """HU at the points that lie in the image."""
    z, y, x = points[((points >= 0) & (points < image.shape)).all(axis=1)].T
    return image[z, y, x]


def _best_mirroring(
    image: np.ndarray, inside: np.ndarray, outside: np.ndarray
) -> tuple[Fit, tuple[int, ...]]:
    """The best of the seven mirrorings of the whole label, each also one block to every side."""
    best: tuple[Fit, tuple[int, ...]] = (NO_FIT, ())
    last = np.subtract(image.shape, 1)
    moves = [np.zeros(3, int), *np.eye(3, dtype=int), *-np.eye(3, dtype=int)]
    for axes in (a for n in (1, 2, 3) for a in itertools.combinations(range(3), n)):
        turned = []
        for points in (inside, outside):
            points = points.copy()
            for axis in axes:
                points[:, axis] = last[axis] - points[:, axis]
            turned.append(points)
        for move in moves:
            fit = measure_fit(image, turned[0] + move, turned[1] + move)
            best = max(best, (fit, axes), key=lambda pair: pair[0].contrast)
    return best


def _best_shift(
    image: np.ndarray, inside: np.ndarray, outside: np.ndarray, steps: np.ndarray
) -> tuple[Fit, tuple[float, ...]]:
    """The best of a grid of shifts, in mm (z, y, x)."""
    best: tuple[Fit, tuple[float, ...]] = (NO_FIT, (0.0, 0.0, 0.0))
    for shift_mm in itertools.product(SHIFTS_MM, repeat=3):
        move = np.rint(np.divide(shift_mm, steps)).astype(int)
        if move.any():
            fit = measure_fit(image, inside + move, outside + move)
            best = max(best, (fit, shift_mm), key=lambda pair: pair[0].contrast)
    return best


def _in_words(shift_mm: tuple[float, ...]) -> str:
    parts = [
        f"{abs(mm):.0f} mm toward the {DIRECTIONS[axis][int(mm > 0)]}"
        for axis, mm in enumerate(shift_mm)
        if mm
    ]
    return " and ".join(parts)
