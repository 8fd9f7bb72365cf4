"""Slices that form no rectangular grid, resampled onto one: a tilted gantry, gaps that differ.

Linear along the slices' normal, between the two nearest slices, and linear within each: what was
measured is moved to where it lies in the world, and what is missing is filled from both sides.
"""

from __future__ import annotations

import numpy as np

REPAIRED = "resampled onto a rectangular grid"  # how each note on a repaired series begins


def even_depths(along: np.ndarray, usual: float) -> np.ndarray:
    """Depths from the first slice to the last, mm, evenly apart by nearly the `usual` distance.

    `along`: depths of the slices, rising. Of an even series with gaps they are its own.
    """
    count = round(float(along[-1] - along[0]) / usual) + 1
    return np.linspace(along[0], along[-1], max(count, 2))


def to_rectangular(
    planes: np.ndarray, along: np.ndarray, shifts: np.ndarray, depths: np.ndarray
) -> tuple[np.ndarray, tuple[int, int]]:
    """Slices at uneven depths, each shifted within its plane -> a volume on even axes.

    `planes`: (slices, y, x). `along`: their depths, rising, mm. `shifts`: (slices, 2), how far the
    first voxel of each lies from that of the first slice, pixels (y, x). `depths`: of the result.
    Returns the volume in the type of `planes`, which holds all slices whole, and where its first
    voxel lies in the plane, pixels (y, x) from that of the first slice. Where no slice was it has
    the lowest value of the slices.
    """
    low = np.floor(shifts.min(axis=0) + 1e-6).astype(int)
    high = np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    shape = (len(depths), *(np.array(planes.shape[1:]) + high - low))
    empty = planes.min()
    volume = np.empty(shape, planes.dtype)
    for place, depth in enumerate(depths):
        above = int(np.clip(np.searchsorted(along, depth), 1, len(along) - 1))
        part = (depth - along[above - 1]) / (along[above] - along[above - 1])
        plane = np.zeros(shape[1:], np.float64)
        for number, weight in ((above - 1, 1 - part), (above, part)):
            if weight > 1e-6:
                plane += weight * _moved(planes[number], shifts[number] - low, shape[1:], empty)
        volume[place] = np.rint(plane) if planes.dtype.kind == "i" else plane
    return volume, (int(low[0]), int(low[1]))


def _moved(
    plane: np.ndarray, shift: np.ndarray, shape: tuple[int, ...], empty: float
) -> np.ndarray:
    """A slice at (y, x) = `shift` >= 0 of a larger plane, float64, linear."""
    from scipy import ndimage

    larger = np.full(shape, empty, np.float64)
    whole = np.floor(shift + 1e-6).astype(int)
    (y, x), (rows, columns) = whole, plane.shape
    larger[y : y + rows, x : x + columns] = plane
    rest = np.clip(shift - whole, 0, None)
    if rest.max() < 1e-6:
        return larger
    return ndimage.shift(larger, rest, order=1, mode="nearest")
