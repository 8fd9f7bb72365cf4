"""Where the slices of a DICOM series lie: evenly, one above the other, or why they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import DataError

ACQUISITION = "0020|0012"

MAX_GAP = 0.1  # slice distances may differ by this part of the usual one
SAME_PLACE = 0.01  # of the usual distance: closer slices are one slice twice
MAX_SHIFT_PIXELS = 0.25  # sideways, off the line that all slices follow
MAX_TILT = float(np.tan(np.deg2rad(1.0)))  # in-plane drift per mm: above, slices are sheared
NOTED_DRIFT_MM = 0.1


class IrregularError(DataError):
    """Slices that form no rectangular grid, but could be resampled onto one."""


@dataclass(frozen=True)
class Slice:
    """One file's header: `tags` as text, geometry in mm, world LPS."""

    file: Path
    size: tuple[int, int]
    is_whole: bool  # an integer type, after rescaling
    tags: dict[str, str]
    position: np.ndarray
    cosines: np.ndarray  # of a row (x), then of a column (y)
    spacing_yx: np.ndarray


def check_positions(
    slices: Sequence[Slice], normal: np.ndarray, folder: Path
) -> tuple[float, tuple[str, ...]]:
    """The distance of slices that follow each other evenly along their normal, mm; notes.

    `slices` are sorted along `normal`. Raises `DataError` by cause.
    """
    if len(slices) < 2:
        raise DataError(f"{folder}: is one slice, not a volume; give the whole series")
    positions = np.array([one.position for one in slices])
    along = positions @ normal
    gaps = np.diff(along)
    distinct = gaps[gaps > SAME_PLACE]
    usual = float(np.median(distinct)) if len(distinct) else 0.0
    _check_twice(slices, gaps <= SAME_PLACE * usual, folder)
    off = np.abs(gaps - usual)
    if off.max() > MAX_GAP * usual:
        place = int(off.argmax())
        raise IrregularError(
            f"{folder}: slices {place + 1} and {place + 2} are {gaps[place]:.3g} mm apart, the "
            f"others {usual:.3g} mm: a slice is missing or a duplicate; fetch the series again"
        )
    step = float(np.polyfit(np.arange(len(along)), along, 1)[0])
    return step, check_sideways(slices, positions, along, normal, folder)


def _check_twice(slices: Sequence[Slice], same: np.ndarray, folder: Path) -> None:
    if not same.any():
        return
    places = len(slices) - int(same.sum())
    first = int(same.argmax())
    if len(slices) % places == 0 and len(slices) > places:
        acquisitions = sorted({one.tags.get(ACQUISITION, "") for one in slices} - {""})
        told = f" (AcquisitionNumber {', '.join(acquisitions)})" if len(acquisitions) > 1 else ""
        raise DataError(
            f"{folder}: {len(slices) // places} images at each of {places} positions: several "
            f"phases or reconstructions in one series{told}; keep the files of one of them in a "
            "folder of its own"
        )
    raise DataError(
        f"{folder}: slices {first + 1} and {first + 2} ({slices[first].file.name} and "
        f"{slices[first + 1].file.name}) are at one position: one is a duplicate; take it out"
    )


def check_sideways(
    slices: Sequence[Slice],
    positions: np.ndarray,
    along: np.ndarray,
    normal: np.ndarray,
    folder: Path,
) -> tuple[str, ...]:
    """Slices lie one above the other: none is shifted, and the whole is not sheared."""
    sideways = positions - np.outer(along, normal)
    drift = np.median(np.diff(sideways, axis=0) / np.diff(along)[:, None], axis=0)
    rest = sideways - np.outer(along - along[0], drift)
    shifts = np.linalg.norm(rest - np.median(rest, axis=0), axis=1)
    if shifts.max() > MAX_SHIFT_PIXELS * float(slices[0].spacing_yx.min()):
        count = int((shifts > MAX_SHIFT_PIXELS * float(slices[0].spacing_yx.min())).sum())
        place = int(shifts.argmax())
        raise DataError(
            f"{folder}: {count} of {len(slices)} slices are shifted sideways, slice {place + 1} "
            f"({slices[place].file.name}) by {shifts[place]:.3g} mm; the positions or the series "
            "are wrong: export it again"
        )
    slope, length = float(np.linalg.norm(drift)), float(along[-1] - along[0])
    degrees = float(np.rad2deg(np.arctan(slope)))
    if slope > MAX_TILT:
        raise IrregularError(
            f"{folder}: the gantry was tilted by {degrees:.1f} degrees, slices are sheared; "
            "resample the series onto a rectangular grid and give that"
        )
    if slope * length <= NOTED_DRIFT_MM:
        return ()
    return (
        f"the gantry was tilted by {degrees:.2g} degrees: over its {length:.0f} mm the slices "
        f"move sideways by {slope * length:.2g} mm; read as if they did not",
    )
