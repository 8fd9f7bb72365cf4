"""Regions of interest: `Box`, margins, crop and paste back (Fig. 4's crops).

The network halves each side three times, so a crop's sides are multiples of `STRIDE` wherever the
volume is large enough; where it is not, `pad_to_multiple` fills the crop up and names the part to
keep. `network_input` is the one way from a volume and a box to what a network sees, in training and
in inference. Everything is in voxels, (z, y, x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.boxes import filled_box

Triple = tuple[int, int, int]

STRIDE = 8  # of the network: three strides of 2, so inputs have sides of multiples of it


@dataclass(frozen=True)
class Box:
    """Half-open box of voxels (z, y, x): `start` is in, `stop` is not; never empty."""

    start: Triple
    stop: Triple

    def __post_init__(self) -> None:
        for name in ("start", "stop"):  # plain ints, so that a box can be written as JSON
            object.__setattr__(self, name, _triple(getattr(self, name), name))
        if any(a < 0 or a >= b for a, b in zip(self.start, self.stop, strict=True)):
            raise ValueError(f"a box needs 0 <= start < stop, not {self.start} to {self.stop}")

    @property
    def shape(self) -> Triple:
        """Sides, voxels."""
        return _triple([b - a for a, b in zip(self.start, self.stop, strict=True)], "shape")

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of an array's last three axes."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a volume of this shape (z, y, x) holds the whole box."""
        return all(stop <= n for stop, n in zip(self.stop, shape, strict=True))


def center_box(shape: Sequence[int], size: Sequence[int], step: int = 1) -> Box:
    """Box of `size` in the middle of a volume; a side that the volume lacks is the volume's.

    It starts at multiples of `step`, at most `step` - 1 voxels before the middle's box.
    """
    sides = [min(n, s) for n, s in zip(shape, size, strict=True)]
    start = [(n - s) // 2 // step * step for n, s in zip(shape, sides, strict=True)]
    stop = [a + s for a, s in zip(start, sides, strict=True)]
    return Box(_triple(start, "start"), _triple(stop, "stop"))


def central_window(shape: Sequence[int], window_voxels: Sequence[int], stride: int = 1) -> Box:
    """All slices, and the central (y, x) window, of a volume of `shape`.

    It starts at a multiple of `stride`, so that a subsampled input keeps the voxels whose index in
    the volume is a multiple of it.
    """
    return center_box(shape, (shape[0], *window_voxels), step=stride)


def bounding_box(mask: np.ndarray) -> Box | None:
    """Smallest box around the non-zero voxels of a (z, y, x) array; None where there are none."""
    if mask.ndim != 3:
        raise ValueError(f"mask must be (z, y, x), not of shape {mask.shape}")
    filled = filled_box(mask)
    if filled is None:
        return None
    start, stop = [side.start for side in filled], [side.stop for side in filled]
    return Box(_triple(start, "start"), _triple(stop, "stop"))


def expand_box(
    box: Box, margin: int | Sequence[int], shape: Sequence[int], multiple: int = STRIDE
) -> Box:
    """Inference crop: a margin on every side, sides rounded up, inside the volume (protocol).

    `margin`: voxels per side, one number or (z, y, x), not negative; the protocol's is (5, 25, 25).
    `shape`: the volume's. Each side becomes the next multiple of `multiple`, and the box is shifted
    into the volume where it sticks out; a side larger than the volume's is the volume's. The result
    holds `box`. Raises ValueError for a negative margin or a box outside the volume.
    """
    margins = (margin,) * 3 if isinstance(margin, int) else margin
    if any(m < 0 for m in margins):
        raise ValueError(f"margin must not be negative, but is {margin}")
    _check_inside(box, shape)
    start = [a - m for a, m in zip(box.start, margins, strict=True)]
    stop = [b + m for b, m in zip(box.stop, margins, strict=True)]
    return _fit(start, stop, shape, multiple)


def fixed_box(
    box: Box,
    size_mm: Sequence[float],
    spacing: Sequence[float],
    shape: Sequence[int],
    *,
    shift_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Box:
    """Crop of one physical size around the middle of a box, so that it does not tell the box's.

    `size_mm`, `spacing`: mm, (z, y, x); `shape`: the volume's. `shift_mm` moves the middle first,
    rounded to voxels. Sides are rounded up to multiples of `STRIDE` and shifted into the volume as
    in `expand_box`; a box that is longer than the size is held whole on that axis, unless shifted.
    Raises ValueError for a box outside the volume.
    """
    _check_inside(box, shape)
    start, stop = [], []
    for low, high, size, step, shift in zip(
        box.start, box.stop, size_mm, spacing, shift_mm, strict=True
    ):
        side = max(math.ceil(size / step - 1e-6), high - low)  # 56 mm is 16 voxels of 3.5 mm
        first = (low + high - side) // 2 + round(shift / step)
        start.append(first)
        stop.append(first + side)
    return _fit(start, stop, shape, STRIDE)


def move_middle(box: Box, within: Box, shape: Sequence[int]) -> Box:
    """`box`, moved by as little as brings its middle voxel into `within`; its sides stay.

    `shape`: the volume's, which it does not leave: near a border its middle can stay outside.
    Raises ValueError for a box outside the volume.
    """
    _check_inside(box, shape)
    start = []
    for low, high, first, last, n in zip(
        box.start, box.stop, within.start, within.stop, shape, strict=True
    ):
        middle = (low + high) // 2
        moved = low + min(max(middle, first), last - 1) - middle
        start.append(min(max(moved, 0), n - (high - low)))
    stop = [a + side for a, side in zip(start, box.shape, strict=True)]
    return Box(_triple(start, "start"), _triple(stop, "stop"))


def largest_move_mm(before: Box, after: Box, spacing: Sequence[float]) -> float:
    """By how much the side that moves most moves between two boxes, mm; `spacing` (z, y, x)."""
    moves = [
        abs(a - b) * step
        for ends in ((before.start, after.start), (before.stop, after.stop))
        for a, b, step in zip(*ends, spacing, strict=True)
    ]
    return max(moves)


def jitter_box(
    box: Box,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    z_fraction: tuple[float, float] = (0.01, 0.10),
    yx_voxels: tuple[int, int] = (0, 30),
    multiple: int = STRIDE,
) -> Box:
    """Training crop: each side gets a random margin of its own (protocol).

    `z_fraction`: range of the margin in z, as a fraction of the volume's slice count; `yx_voxels`:
    range in y and x, both ends possible. Defaults are the pancreas's; the lesion's are (0.01,
    0.08) and (-5, 40). A negative margin cuts into the box, but leaves at least its middle voxel.
    Sides are then rounded up and shifted into the volume as in `expand_box`.
    """
    _check_inside(box, shape)
    z_margins = np.rint(rng.uniform(*z_fraction, size=2) * shape[0]).astype(int)
    yx_margins = rng.integers(yx_voxels[0], yx_voxels[1] + 1, size=(2, 2))
    below, above = np.vstack([z_margins, yx_margins]).T.tolist()
    start, stop = [], []
    for axis in range(3):
        middle = (box.start[axis] + box.stop[axis] - 1) // 2
        start.append(min(box.start[axis] - below[axis], middle))
        stop.append(max(box.stop[axis] + above[axis], middle + 1))
    return _fit(start, stop, shape, multiple)


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """The box of an array's last three axes, a view. Raises ValueError for a box outside it."""
    _check_inside(box, array.shape[-3:])
    return array[(..., *box.slices)]


def paste(cropped: np.ndarray, box: Box, shape: Sequence[int]) -> np.ndarray:
    """Inverse of `crop`: a new array of last axes `shape`, zero outside the box."""
    if cropped.shape[-3:] != box.shape:
        raise ValueError(f"a crop of shape {cropped.shape} does not fill a box of {box.shape}")
    _check_inside(box, shape)
    array = np.zeros((*cropped.shape[:-3], *shape), dtype=cropped.dtype)
    array[(..., *box.slices)] = cropped
    return array


def network_input(
    volume: np.ndarray, box: Box, stride: int = 1, value: float = 0
) -> tuple[np.ndarray, Box]:
    """What a network sees of `box`: padded to its strides, then every `stride`-th voxel.

    `volume`: (z, y, x), image or label; `value` fills the padding. Returns a new, writable array
    with sides of multiples of `STRIDE`, and the place of `box` in it before it was subsampled: an
    output of the network, brought back to every voxel, is cropped to that place. The box's first
    voxel is among those that are kept. Raises ValueError for a box outside the volume.
    """
    padded, inner = pad_to_multiple(crop(volume, box), STRIDE * stride, value, step=stride)
    every = slice(None, None, stride)
    return padded[every, every, every].copy(), inner


def input_shape(shape: Sequence[int], stride: int = 1) -> Triple:
    """The shape of `network_input` of a box of that shape."""
    z, y, x = (-(-n // (STRIDE * stride)) * STRIDE for n in shape)
    return z, y, x


def pad_to_multiple(
    array: np.ndarray, multiple: int | Sequence[int], value: float = 0, step: int = 1
) -> tuple[np.ndarray, Box]:
    """Fill a volume up until its sides are multiples, evenly on both ends.

    `array`: (..., z, y, x); `multiple`: one number or (z, y, x). In front it is a multiple of
    `step` voxels, the rest is behind. Returns the padded array (the array itself where nothing is
    missing) and the box in it that holds the original: `crop(padded, inner)` is `array` again.
    """
    multiples = (multiple,) * 3 if isinstance(multiple, int) else multiple
    shape = array.shape[-3:]
    missing = [-n % m for n, m in zip(shape, multiples, strict=True)]
    before = _triple([m // 2 // step * step for m in missing], "start")
    after = _triple([b + n for b, n in zip(before, shape, strict=True)], "stop")
    inner = Box(before, after)
    if not any(missing):
        return array, inner
    pads = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 3) + pads, constant_values=value)
    return padded, inner


def _triple(values: Sequence[int], name: str) -> Triple:
    """Three whole numbers as plain ints."""
    whole = tuple(int(v) for v in values)
    if len(whole) != 3 or any(a != b for a, b in zip(whole, values, strict=True)):
        raise ValueError(f"{name} must be three whole numbers (z, y, x), not {tuple(values)}")
    return whole[0], whole[1], whole[2]


def _check_inside(box: Box, shape: Sequence[int]) -> None:
    if not box.fits(shape):
        raise ValueError(f"{box} sticks out of a volume of shape {tuple(shape)}")


def _fit(start: Sequence[int], stop: Sequence[int], shape: Sequence[int], multiple: int) -> Box:
    """Round each side up to the multiple, shift into the volume, cut at the volume."""
    low, high = [], []
    for a, b, n in zip(start, stop, shape, strict=True):
        side = b - a + -(b - a) % multiple
        if side >= n:
            low.append(0)
            high.append(n)
            continue
        a -= (side - (b - a)) // 2
        a = min(max(a, 0), n - side)
        low.append(a)
        high.append(a + side)
    return Box(_triple(low, "start"), _triple(high, "stop"))
