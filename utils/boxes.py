"""The box around what is not zero in a volume: most work on a mask needs no more of the volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

BoxSlices = tuple[slice, slice, slice]


def filled_box(volume: np.ndarray) -> BoxSlices | None:
    """Slices of the smallest box around the non-zero voxels of a (z, y, x) array; None: all zero.

    Any type and memory order. Only the first step reads the whole volume, plane after plane as
    they lie in memory; the others read what is left.
    """
    order = sorted(range(3), key=lambda axis: -abs(volume.strides[axis]))
    planes = volume.transpose(order)
    outer = _filled(planes.any(axis=(1, 2)))
    if outer is None:
        return None
    shadow = np.asarray(planes[outer].any(axis=0))
    middle, inner = _filled(shadow.any(axis=1)), _filled(shadow.any(axis=0))
    assert middle is not None  # a plane is not empty, so neither are its lines
    assert inner is not None
    by_axis = dict(zip(order, (outer, middle, inner), strict=True))
    return by_axis[0], by_axis[1], by_axis[2]


def _filled(line: ArrayLike) -> slice | None:
    """From the first True of a bool array (n,) to its last; None without any."""
    places = np.flatnonzero(line)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) > 0 else None
