"""Single known changes of an image: what another scanner, protocol or patient does, one at a time.

A change acts on HU (z, y, x) at the image's own spacing; labels and grid stay. Three strengths of
each, in the unit that its name says. Of a synthetic case the lesion's kind and the body's size can
be changed too: it is drawn again, the same patient otherwise (`shift_phantom`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from data.case import HU_RANGE, Case, Triple
from data.phantom.centers import Center
from data.phantom.lesion import KINDS

SOFT_TISSUE_HU = 40  # what is brighter is taken to be enhanced
BODY_HU = -300  # what is brighter is body: fat lies near -100, air and lung below -800
SHARPENED_MM = 2.0  # width of the detail that a sharper kernel lifts
GRAIN_MM = 2.0  # standard deviation of the Gaussian that makes noise coarse
UNCHANGED = "unchanged"

# HU float32 (z, y, x), spacing (mm), random numbers -> HU
Change = Callable[[np.ndarray, Triple, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class ImageShift:
    """One kind of change; `make(strength)` is it, `unit` that of the strengths."""

    unit: str
    strengths: tuple[float, float, float]
    make: Callable[[float], Change]


@dataclass(frozen=True)
class PhantomShift:
    """One kind of change of a synthetic patient; `make(center, strength)`: drawn as whose."""

    unit: str
    strengths: tuple[float | str, float | str, float | str]
    make: Callable[[Center, float | str], Center]


def softer(width_mm: float) -> Change:
    """A softer kernel: a Gaussian in plane, `width_mm` its standard deviation."""
    return lambda hu, spacing, rng: blur_in_plane(hu, width_mm, spacing)


def sharper(gain: float) -> Change:
    """A sharper kernel: `gain` times the detail finer than `SHARPENED_MM` on top."""

    def change(hu: np.ndarray, spacing: Triple, rng: np.random.Generator) -> np.ndarray:
        return hu + np.float32(gain) * (hu - blur_in_plane(hu, SHARPENED_MM, spacing))

    return change


def white_noise(deviation_hu: float) -> Change:
    """Noise without correlation, on top of the scanner's own."""
    return lambda hu, spacing, rng: hu + deviation_hu * rng.standard_normal(hu.shape, np.float32)


def coarse_noise(deviation_hu: float) -> Change:
    """Noise with grains of some `GRAIN_MM` in plane, of that deviation, as of a soft kernel."""

    def change(hu: np.ndarray, spacing: Triple, rng: np.random.Generator) -> np.ndarray:
        grain = rng.standard_normal(hu.shape, np.float32)
        grain = blur_in_plane(grain, GRAIN_MM, spacing)
        return hu + np.float32(deviation_hu / max(float(grain.std()), 1e-6)) * grain

    return change


def enhancement(factor: float) -> Change:
    """All that is brighter than soft tissue without contrast, times `factor` above it."""

    def change(hu: np.ndarray, spacing: Triple, rng: np.random.Generator) -> np.ndarray:
        return hu + np.float32(factor - 1) * np.maximum(hu - SOFT_TISSUE_HU, 0)

    return change


def offset(shift_hu: float) -> Change:
    """A wrong calibration: the body (lungs and gas left out) is so much brighter, air is not."""
    return lambda hu, spacing, rng: hu + np.float32(shift_hu) * (hu > BODY_HU)


def gain(factor: float) -> Change:
    """A wrong calibration: HU times `factor`, so that water stays at 0."""
    return lambda hu, spacing, rng: hu * np.float32(factor)


def thicker(slice_mm: float) -> Change:
    """Slices of about `slice_mm`: means of neighbors, between whose middles it is interpolated.

    A whole number of slices makes one; where they are thick enough already, nothing changes.
    """

    def change(hu: np.ndarray, spacing: Triple, rng: np.random.Generator) -> np.ndarray:
        count = max(round(slice_mm / spacing[0]), 1)
        if count == 1:
            return hu
        starts = np.arange(0, len(hu), count)
        thick = np.add.reduceat(hu, starts, axis=0)
        sizes = np.minimum(starts + count, len(hu)) - starts
        thick /= sizes[:, None, None].astype(np.float32)
        middles = starts + (sizes - 1) / 2
        place = np.interp(np.arange(len(hu)), middles, np.arange(len(middles)))
        low = np.minimum(place.astype(int), max(len(middles) - 2, 0))
        part = (place - low).astype(np.float32)[:, None, None]
        return (1 - part) * thick[low] + part * thick[np.minimum(low + 1, len(middles) - 1)]

    return change


def other_lesion(center: Center, kind: float | str) -> Center:
    """All lesions are of one kind, in the same place and of the same diameter."""
    assert center.lesions is not None
    return replace(center, lesions=replace(center.lesions, odds=((str(kind), 1.0),)))


def other_size(center: Center, factor: float | str) -> Center:
    """Every patient is `factor` times as large, the lesion as large as before."""
    low, high = center.build.size
    size = (low * float(factor), high * float(factor))
    return replace(center, build=replace(center.build, size=size))


IMAGE_SHIFTS: Mapping[str, ImageShift] = {
    "softer kernel": ImageShift("mm", (1.0, 2.0, 3.5), softer),
    "sharper kernel": ImageShift("x", (0.5, 1.0, 2.0), sharper),
    "white noise": ImageShift("HU", (10, 20, 40), white_noise),
    "coarse noise": ImageShift("HU", (10, 20, 40), coarse_noise),
    "stronger contrast": ImageShift("x", (1.2, 1.4, 1.6), enhancement),
    "weaker contrast": ImageShift("x", (0.8, 0.6, 0.4), enhancement),
    "lower HU": ImageShift("HU", (-10, -20, -40), offset),
    "higher HU": ImageShift("HU", (10, 20, 40), offset),
    "lower gain": ImageShift("x", (0.95, 0.9, 0.8), gain),
    "higher gain": ImageShift("x", (1.05, 1.1, 1.2), gain),
    "thicker slices": ImageShift("mm", (5.0, 7.5, 10.0), thicker),
}
PHANTOM_SHIFTS: Mapping[str, PhantomShift] = {
    "lesion": PhantomShift("", tuple(KINDS), other_lesion),  # type: ignore[arg-type]
    "smaller body": PhantomShift("x", (0.9, 0.8, 0.7), other_size),
    "larger body": PhantomShift("x", (1.04, 1.08, 1.12), other_size),
}


def shift_case(case: Case, change: str, strength: float) -> Case:
    """The case with a changed image: int16 HU within `HU_RANGE`, the same each time.

    Random numbers depend on the case and the change, not on the strength: noise of twice the
    strength is the same noise twice. Raises KeyError for an unknown change.
    """
    entropy = [zlib.crc32(text.encode()) for text in (case.center, case.case_id, change)]
    apply = IMAGE_SHIFTS[change].make(strength)
    hu = apply(case.image_hu.astype(np.float32), case.spacing, np.random.default_rng(entropy))
    return replace(case, image_hu=np.rint(np.clip(hu, *HU_RANGE)).astype(np.int16))


def blur_in_plane(hu: np.ndarray, width_mm: float, spacing: Triple) -> np.ndarray:
    """A Gaussian within slices, `width_mm` its standard deviation."""
    from scipy import ndimage

    sigma = (0.0, width_mm / spacing[1], width_mm / spacing[2])
    return ndimage.gaussian_filter(hu, sigma)
