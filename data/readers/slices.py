"""Whether the slices of a series, one above the other, are a volume: the geometry of their headers.

Whatever would make a volume of another shape than the patient's is refused by its cause: slices
missing, twice, turned, shifted sideways, of another size, or of two acquisitions that alternate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import DataError

ACQUISITION, INSTANCE = "0020|0012", "0008|0018"
MAX_GAP = 0.1  # slice distances may differ by this part of the usual one
SAME_PLACE = 0.01  # of the usual distance: closer slices are one slice twice
MAX_SHIFT_PIXELS = 0.25  # sideways, off the line that all slices follow
MAX_TILT = float(np.tan(np.deg2rad(1.0)))  # in-plane drift per mm: above, slices are sheared
NOTED_DRIFT_MM = 0.1
MAX_TURN = 1e-3  # direction cosines of one series may differ by this
MAX_RELATIVE = 1e-3  # and its pixel spacings


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


def check_alike(slices: list[Slice], folder: Path) -> None:
    """All slices have one size, orientation and pixel spacing. Raises `DataError` by cause."""
    kinds: dict[str, tuple[Callable[[Slice], np.ndarray], float]] = {
        "size": (lambda one: np.array(one.size), 0),
        "orientation": (lambda one: one.cosines, MAX_TURN),
        "pixel spacing": (
            lambda one: one.spacing_yx,
            MAX_RELATIVE * float(np.abs(slices[0].spacing_yx).min()),
        ),
    }
    for name, (value, tolerance) in kinds.items():
        values = np.array([value(one) for one in slices], float)
        found, counts = np.unique(values.round(6), axis=0, return_counts=True)
        usual = found[counts.argmax()]
        off = np.abs(values - usual).max(axis=1) > tolerance
        if off.any():
            first = slices[int(off.argmax())]
            raise DataError(
                f"{folder}: {name} changes within the series, in {int(off.sum())} of {len(slices)} "
                f"slices ({first.file.name}: {_short(value(first))}, usually {_short(usual)}); "
                "take out what belongs to another scan, or export the series again"
            )
    rows, columns = slices[0].cosines[:3], slices[0].cosines[3:]
    lengths = np.array([rows @ rows, columns @ columns, 1 + rows @ columns])
    if np.abs(lengths - 1).max() > 1e-2 or slices[0].spacing_yx.min() <= 0:
        raise DataError(
            f"{folder}: orientation {_short(slices[0].cosines)} with pixel spacing "
            f"{_short(slices[0].spacing_yx)} is no image plane; export the series again"
        )


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
    _check_alternation(slices, folder)
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
    if places == 1:
        raise DataError(
            f"{folder}: all {len(slices)} slices have the position {_short(slices[0].position)} "
            "(ImagePositionPatient, written over on the way?); export the series again"
        )
    first = int(same.argmax())
    one, other = slices[first], slices[first + 1]
    if INSTANCE in one.tags and one.tags[INSTANCE] == other.tags.get(INSTANCE):
        raise DataError(
            f"{folder}: {one.file.relative_to(folder)} and {other.file.relative_to(folder)} are "
            f"one image, copied, as are {int(same.sum())} of {len(slices)}; take out the copies"
        )
    if len(slices) % places == 0 and len(slices) > places:
        acquisitions = sorted({one.tags.get(ACQUISITION, "") for one in slices} - {""})
        told = f" (AcquisitionNumber {', '.join(acquisitions)})" if len(acquisitions) > 1 else ""
        raise DataError(
            f"{folder}: {len(slices) // places} images at each of {places} positions: several "
            f"phases or reconstructions in one series{told}; keep the files of one of them in a "
            "folder of its own"
        )
    raise DataError(
        f"{folder}: slices {first + 1} and {first + 2} ({one.file.name} and {other.file.name}) "
        "are at one position: one is a duplicate; take it out"
    )


def _check_alternation(slices: Sequence[Slice], folder: Path) -> None:
    """Slices of two scans, half a step apart, are evenly spaced too."""
    numbers = [one.tags.get(ACQUISITION, "") for one in slices]
    changes = sum(one != other for one, other in itertools.pairwise(numbers))
    names = sorted(set(numbers))
    if changes >= len(slices) // 2 and changes > 2 * (len(names) - 1):
        told = ", ".join(name or "none" for name in names)
        raise DataError(
            f"{folder}: slices of {len(names)} acquisitions alternate (AcquisitionNumber {told}): "
            "several phases or reconstructions in one series; keep the files of one of them in a "
            "folder of its own"
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
    allowed = MAX_SHIFT_PIXELS * float(slices[0].spacing_yx.min())
    near = np.linalg.norm(rest[:, None] - rest, axis=2) <= allowed
    shifts = np.linalg.norm(rest - rest[near.sum(axis=1).argmax()], axis=1)  # from most of them
    if shifts.max() > allowed:
        count = int((shifts > allowed).sum())
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


def _short(numbers: np.ndarray) -> str:
    return "\\".join(f"{number:.6g}" for number in numbers)
