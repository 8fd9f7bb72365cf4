"""Whether an image's values are Hounsfield units, by what the histogram of a body looks like.

In Hounsfield units fat lies near -100, soft tissue between 0 and 180 (with contrast), air near
-1000, and little above 700. A file that was shifted, scaled, windowed or normalized on its way
shows the same peaks elsewhere. Nothing else is needed: no label, no air, no whole body, no tag.
docs/data.md, section "Values", has the measured error rates (`benchmarks/bench_values.py`).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import HU_RANGE, DataError
from data.intensity import HU_WINDOW

MIN_VOXELS = 10_000  # fewer make no histogram: not judged
MAX_SAMPLE = 1_000_000  # voxels looked at, evenly spread
BINS = (-5000, 9000)  # one per unit; what lies outside counts in the outermost ones
SMOOTHING_HU = 6.0

FAT_HU = (-130, -65)  # where the peak of fat may lie; measured: -111 to -81
SOFT_HU = (-15, 200)  # the peak of soft tissue; measured: 28 to 124
FAT_TO_SOFT_HU = (90, 250)  # from one to the other; measured: 126 to 221
MAX_DENSE_SHARE = 0.10  # above 700 HU, of what is above -150
DARKEST_HU = -1250  # what lies below is padding, not air with noise
MAX_TOO_DARK_SHARE = 0.01
MIN_TISSUE_SHARE = 0.03  # from -150 to 250
NO_TISSUE_SHARE = 0.01  # the same, where it alone decides that there is no body
CLEAR_TISSUE_SHARE = 0.15  # the same, where it alone decides that there is one
MIN_DARK_SHARE = 1e-4  # below -20: fat and noise, in every piece of a body
MIN_AIR_SHARE = 0.05  # below -300: enough of it to be lung or the air around
MIN_TRUE_AIR_PART = 0.2  # of that: below -650
REPAIRED_AIR_HU = -800  # after a repair: below this
CERTAIN_DENSE_SHARE = 0.3  # above 700 HU: no body, whatever is around it
CERTAIN_DARK_SHARE = 0.05  # below -1250 and no padding: air has no such noise
MAX_NORMALIZED_RANGE = 25.0  # the noise of a CT alone is wider
WRAPPED = (32768, 65535)  # a negative HU kept in an unsigned type
MAX_UNWRAPPED_SHARE = 0.01  # between HU and these: values that fill the whole type are gray levels
CUT_OFF_HU = -200  # every CT of a body shows something darker: air, lung or bowel gas

PADDING_SHARE = 0.003  # of all voxels with exactly one value: no body does that, padding does

BODY_HU = -300
MAX_MISSING_SHARE = 1e-3  # of the body: values that are not a number
MAX_MISSING_VOXELS = 30_000_000  # larger images are looked at in every second voxel

# (scale, offset): HU = scale * value + offset, what conversions forget or do twice. An offset of
# 1000 is found as one of 1024: the peaks of one image do not lie so exactly.
REPAIRS = tuple(
    (scale, offset)
    for scale, offset in itertools.product((1.0, 0.5, 2.0), (0.0, -1024.0, 1024.0))
    if (scale, offset) != (1.0, 0.0)
)


@dataclass(frozen=True)
class Suspicion:
    """Why values cannot be HU. `repair`: the (hu_scale, hu_offset) that would make them HU."""

    cause: str
    certain: bool
    repair: tuple[float, float] | None = None


def to_hu(
    image: np.ndarray, path: Path, scale: float = 1.0, offset: float = 0.0
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int16 HU of any stored values, in their order, clamped to `HU_RANGE`; notes.

    HU = `scale` * value + `offset`. Works slice by slice, an int16 image in place: at most the
    result is needed besides the image. Raises `DataError` where values are certainly no HU, one
    value only, or missing inside the body.
    """
    if image.size == 0 or image.min() == image.max():
        raise DataError(f"{path}: every voxel has the same value; fetch or convert it again")
    if min(image.shape) == 1:
        raise DataError(f"{path}: is one slice, not a volume; give the whole series")
    notes = _check_missing(image, path, scale, offset) if image.dtype.kind == "f" else ()
    sample = sample_values(image) * np.float32(scale) + np.float32(offset)
    notes += check_values(sample, path)
    notes += _note_cut_off(sample)
    if not path.is_dir():  # a DICOM series declares its padding
        notes += _note_padding(sample)
    if image.dtype == np.int16 and (scale, offset) == (1.0, 0.0) and image.flags.writeable:
        return np.clip(image, *HU_RANGE, out=image), notes
    image_hu = np.empty(image.shape, np.int16)
    for stored, hu in zip(image, image_hu, strict=True):
        values = stored.astype(np.float64) * scale + offset
        values[~np.isfinite(values)] = HU_RANGE[0]
        hu[...] = np.rint(np.clip(values, *HU_RANGE, out=values), out=values)
    if image_hu.min() == image_hu.max():
        raise DataError(f"{path}: no voxel is within {HU_RANGE} HU; fetch or convert it again")
    return image_hu, notes


def _note_cut_off(sample: np.ndarray) -> tuple[str, ...]:
    """Hounsfield units of which a window is left: read, but less than other cases have."""
    if sample.size < MIN_VOXELS or sample.min() <= CUT_OFF_HU:
        return ()
    low, high = float(sample.min()), float(sample.max())
    inside = low > HU_WINDOW[0] or high < HU_WINDOW[1]
    return (
        f"no voxel is below {CUT_OFF_HU} HU (values from {low:.4g} to {high:.4g}): cut off to a "
        f"window{', which is narrower than the networks use' if inside else ''}, or shifted; "
        "convert it again from DICOM where you can",
    )


def _note_padding(sample: np.ndarray) -> tuple[str, ...]:
    if not sample.size:
        return ()
    lowest = float(sample.min())
    share = float(np.mean(sample == lowest))
    if lowest >= DARKEST_HU or share < PADDING_SHARE:
        return ()
    return (
        f"{100 * share:.1f} % of its voxels are padding ({lowest:g}); read as {HU_RANGE[0]} HU",
    )


def _check_missing(image: np.ndarray, path: Path, scale: float, offset: float) -> tuple[str, ...]:
    """Voxels that are not a number: fine outside the body, a note; refused if many are inside.

    Inside: between two voxels of the body along some axis. The body: the largest part of the image
    above -300 HU.
    """
    from scipy import ndimage

    count = sum(int(np.count_nonzero(~np.isfinite(part))) for part in image)
    if count == 0:
        return ()
    step = 1 if image.size <= MAX_MISSING_VOXELS else 2
    if count == image.size:
        raise DataError(f"{path}: no voxel is a number (NaN or infinite); convert it again")
    part = image[::step, ::step, ::step]
    missing = ~np.isfinite(part)
    body = np.where(missing, -np.inf, part) > (BODY_HU - offset) / scale
    inside = 0
    if body.any():
        parts, _ = ndimage.label(body | missing)  # a body stays one where whole slices are missing
        body &= parts == np.bincount(parts[body]).argmax()
        inside = int(np.count_nonzero(missing & _between(body)))
    if inside > MAX_MISSING_SHARE * np.count_nonzero(body):
        raise DataError(
            f"{path}: {count} voxels are not a number (NaN or infinite), about {inside * step**3} "
            "of them inside the body; convert it again, or list the case under exclude"
        )
    return (f"{count} voxels are not a number (NaN or infinite); read as {HU_RANGE[0]} HU",)


def _between(body: np.ndarray) -> np.ndarray:
    """Voxels that have body on both sides along at least one axis."""
    between = np.zeros(body.shape, bool)
    for axis in range(body.ndim):
        before = np.logical_or.accumulate(body, axis)
        behind = np.flip(np.logical_or.accumulate(np.flip(body, axis), axis), axis)
        between |= before & behind
    return between


def check_values(sample: np.ndarray, path: Path) -> tuple[str, ...]:
    """Notes on values (1-D, HU, not yet clamped) that may be no HU.

    Raises `DataError` where they certainly are none.
    """
    found = suspect_values(sample)
    if found is None:
        return ()
    if not found.certain:
        return (f"{found.cause}; look at it, or list the case under exclude",)
    cure = "convert it again from DICOM, or list the case under exclude"
    if found.repair is not None:
        scale, offset = found.repair
        keys = [f"hu_scale = {scale:g}"] if scale != 1 else []
        keys += [f"hu_offset = {offset:g}"] if offset != 0 else []
        cure = (
            f"{cure}; or, where all images of the center are alike, set {' and '.join(keys)} for "
            "it in the centers file"
        )
    raise DataError(f"{path}: {found.cause}; {cure}")


def sample_values(image: np.ndarray) -> np.ndarray:
    """About `MAX_SAMPLE` finite values, evenly spread over the image, float32, 1-D."""
    step = max(1, int(np.ceil((image.size / MAX_SAMPLE) ** (1 / max(image.ndim, 1)))))
    with np.errstate(over="ignore"):
        sample = image[(slice(None, None, step),) * image.ndim].astype(np.float32).ravel()
    return sample[np.isfinite(sample)]


def suspect_values(sample: np.ndarray) -> Suspicion | None:
    """What is wrong with values that should be HU; None where they look right or are too few."""
    sample = _without_padding(sample)
    if sample.size < MIN_VOXELS:
        return None
    plain = _suspect_range(sample)
    if plain is not None:
        return plain
    counts, centers = _histogram(sample)
    if _fits(counts, centers):
        return None
    repaired = [
        (error, repair)
        for repair in REPAIRS
        if (error := _repair_error(counts, repair[0] * centers + repair[1])) is not None
    ]
    if repaired:
        return _as_suspicion(*min(repaired)[1])
    if not _has_body_shares(counts, centers):  # noise hides the peaks, but not a shift
        for offset in (-1024.0, 1024.0):
            if _has_body_shares(counts, centers + offset, CLEAR_TISSUE_SHARE):
                return _as_suspicion(1.0, offset)
    return _suspect_shares(counts, centers, _extent(sample))


def _suspect_shares(counts: np.ndarray, hu: np.ndarray, extent: str) -> Suspicion:
    """What is wrong with a histogram that is no body's and that no repair makes one."""
    total = counts.sum()
    for share, least, where in (
        (counts[hu > 700].sum() / total, CERTAIN_DENSE_SHARE, "above 700, denser than most bone"),
        (counts[hu < DARKEST_HU].sum() / total, CERTAIN_DARK_SHARE, "below -1250, darker than air"),
    ):
        if share > least:
            return Suspicion(
                f"{100 * share:.0f} % of the values lie {where} ({extent}): they are scaled, "
                "inverted or shifted, no Hounsfield units",
                certain=True,
            )
    if counts[hu < -20].sum() < MIN_DARK_SHARE * total:
        return Suspicion(
            f"holds no value below -20 ({extent}), but every body has fat near -100 HU: "
            "the values are shifted, windowed or cut off at 0, no Hounsfield units",
            certain=True,
        )
    tissue = counts[(hu >= -150) & (hu <= 250)].sum()
    if tissue < NO_TISSUE_SHARE * total:
        return Suspicion(
            f"holds next to no value of fat or soft tissue, -150 to 250 ({extent}): the "
            "values are shifted or scaled, no Hounsfield units",
            certain=True,
        )
    return Suspicion(
        f"the histogram is not that of a body in Hounsfield units ({extent}; fat is "
        "expected near -100, soft tissue at 0 to 150, air near -1000)",
        certain=False,
    )


def _without_padding(sample: np.ndarray) -> np.ndarray:
    """Without values that are repeated at the lower end (-3024, -2048, -1024, 0)."""
    for _ in range(3):
        if sample.size < MIN_VOXELS:
            break
        others = sample[sample > sample.min()]
        if sample.size - others.size < PADDING_SHARE * sample.size or others.size < MIN_VOXELS:
            break
        sample = others
    return sample


def _suspect_range(sample: np.ndarray) -> Suspicion | None:
    """What the range alone gives away."""
    low, high = (float(q) for q in np.percentile(sample, (0.5, 99.5)))
    wrapped = (sample >= WRAPPED[0]) & (sample <= WRAPPED[1])
    between = (sample > BINS[1]) & (sample < WRAPPED[1] - 5000)
    if (
        wrapped.mean() > MIN_DARK_SHARE
        and float(sample[wrapped].max()) >= WRAPPED[1] - 1100
        and between.mean() < MAX_UNWRAPPED_SHARE
    ):
        return Suspicion(
            f"holds values up to {sample.max():.0f}: negative Hounsfield units were stored in an "
            "unsigned type and wrapped around (-1024 became 64512)",
            certain=True,
        )
    if high - low < MAX_NORMALIZED_RANGE and sample.min() < sample.max():
        kind = "scaled to 0 to 1" if low >= 0 and high <= 1 else "normalized (mean 0, deviation 1?)"
        return Suspicion(
            f"99 % of its values lie between {low:.3g} and {high:.3g}: they were {kind}, and are "
            "no Hounsfield units",
            certain=True,
        )
    within = (sample >= 0) & (sample <= 255)
    if within.mean() > 1 - MIN_DARK_SHARE and high > 200:
        return Suspicion(
            "all values lie between 0 and 255: the image was windowed to gray levels and holds no "
            "Hounsfield units",
            certain=True,
        )
    return None


def _histogram(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts per unit without padding, and the unit of each: a value repeated far more often than
    its neighbors is padding, or where a conversion cut the values off.
    """
    from scipy import ndimage

    low, high = BINS
    units = np.clip(np.rint(sample), low, high).astype(np.int64) - low
    counts = np.bincount(units, minlength=high - low + 1).astype(np.float64)
    around = ndimage.uniform_filter1d(counts, 21) * 21 - counts
    spikes = (counts > PADDING_SHARE * sample.size) & (counts > 10 * np.maximum(around / 20, 1))
    kept = np.where(spikes, around / 20, counts)
    if kept.sum() >= max(MIN_VOXELS / 2, 0.2 * sample.size):  # else an image without any noise
        counts = kept
    return counts, np.arange(low, high + 1, dtype=np.float64)


def _fits(counts: np.ndarray, hu: np.ndarray) -> bool:
    """Whether a histogram can be that of a body; one where peaks are hidden may be one."""
    if not _has_body_shares(counts, hu):
        return False
    peaks = _find_peaks(counts, hu)
    return peaks is None or _are_body_peaks(*peaks)


def _repair_error(counts: np.ndarray, hu: np.ndarray) -> float | None:
    """How far fat and air lie from where they should, HU; None where this is certainly no body."""
    peaks = _find_peaks(counts, hu)
    if peaks is None or not _has_body_shares(counts, hu) or not _are_body_peaks(*peaks):
        return None
    dark = (hu > DARKEST_HU) & (hu < -900)
    air = counts[hu < -300].sum()
    true_air = counts[(hu < REPAIRED_AIR_HU) & (hu > DARKEST_HU)].sum()
    if air > MIN_AIR_SHARE * counts.sum() and true_air < MIN_TRUE_AIR_PART * air:
        return None
    error = abs(peaks[0] + 100)
    if counts[dark].sum() > MIN_AIR_SHARE * counts.sum():
        error += abs(float(np.average(hu[dark], weights=counts[dark])) + 1000)
    return error


def _has_body_shares(counts: np.ndarray, hu: np.ndarray, tissue: float = MIN_TISSUE_SHARE) -> bool:
    """Enough soft tissue and fat, little that is denser than bone or darker than air."""
    total = counts.sum()
    above_lung = counts[hu > -150].sum()
    air = counts[hu < -300].sum()
    return bool(
        counts[(hu >= -150) & (hu <= 250)].sum() >= tissue * total
        and counts[hu < -20].sum() >= MIN_DARK_SHARE * total
        and counts[hu > 700].sum() <= MAX_DENSE_SHARE * above_lung
        and counts[hu < DARKEST_HU].sum() <= MAX_TOO_DARK_SHARE * total
        and (air < MIN_AIR_SHARE * total or counts[hu < -650].sum() >= MIN_TRUE_AIR_PART * air)
    )


def _find_peaks(counts: np.ndarray, hu: np.ndarray) -> tuple[float, float] | None:
    """HU of the peaks of fat and soft tissue as they stand; None where they are not both seen."""
    from scipy import ndimage
    from scipy.signal import find_peaks  # here: its import takes half a second

    grid = np.arange(-400.0, 501.0)
    binned = np.bincount(
        np.clip(np.rint(hu) + 400, 0, 900).astype(np.int64), weights=counts, minlength=901
    )
    binned[[0, 900]] = 0
    smooth = ndimage.gaussian_filter1d(binned, SMOOTHING_HU)
    if smooth.max() <= 0:
        return None
    places, facts = find_peaks(smooth, height=0.04 * smooth.max(), prominence=0)
    strong = facts["prominences"] >= 0.1 * facts["peak_heights"]
    places, heights = places[strong], facts["peak_heights"][strong]
    lower = (grid[places] < -25) & (grid[places] > -330)
    upper = grid[places] >= -25
    if not lower.any() or not upper.any():
        return None
    fat = float(grid[places[lower][heights[lower].argmax()]])
    soft = float(grid[places[upper][heights[upper].argmax()]])
    return fat, soft


def _are_body_peaks(fat: float, soft: float) -> bool:
    return (
        FAT_HU[0] <= fat <= FAT_HU[1]
        and SOFT_HU[0] <= soft <= SOFT_HU[1]
        and FAT_TO_SOFT_HU[0] <= soft - fat <= FAT_TO_SOFT_HU[1]
    )


def _as_suspicion(scale: float, offset: float) -> Suspicion:
    parts = []
    if scale != 1:
        parts.append(f"{'twice' if scale < 1 else 'half'} as large as they should be")
    if offset != 0:
        parts.append(f"about {abs(offset):.0f} too {'high' if offset < 0 else 'low'}")
    cause = f"its values are no Hounsfield units: they are {' and '.join(parts)}"
    return Suspicion(cause, certain=True, repair=(scale, offset))


def _extent(sample: np.ndarray) -> str:
    low, high = np.percentile(sample, (1, 99))
    return f"98 % of the values lie between {low:.4g} and {high:.4g}"
