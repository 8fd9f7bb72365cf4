"""Shapes in mm that a phantom is painted with: ellipsoids, tubes and smooth random fields.

All coordinates are (z, y, x) in mm: z to the head, y to the back, x to the patient's left. A shape
is evaluated only inside its own bounding box of the sampling grid, as a signed distance (negative
inside), so that painting costs what the organ measures and not what the volume does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Slices = tuple[slice, slice, slice]
FAR_MM = np.float32(1e3)  # stands for "outside the box that was evaluated"


@dataclass(frozen=True)
class Axes:
    """Ascending float32 sampling positions (mm) along z, y and x."""

    z: np.ndarray
    y: np.ndarray
    x: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.z), len(self.y), len(self.x)

    def box(self, low: np.ndarray, high: np.ndarray) -> Slices:
        """Index box of the samples with low <= position <= high, both (3,) mm; may be empty."""
        bounds = [
            slice(int(np.searchsorted(a, lo)), int(np.searchsorted(a, hi, side="right")))
            for a, lo, hi in zip((self.z, self.y, self.x), low, high, strict=True)
        ]
        return bounds[0], bounds[1], bounds[2]

    def open_grid(self, box: Slices) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of a box, shaped to broadcast as (z, y, x)."""
        return (
            self.z[box[0]][:, None, None],
            self.y[box[1]][None, :, None],
            self.x[box[2]][None, None, :],
        )


@dataclass(frozen=True)
class Ellipsoid:
    """`center` and `semi` axes (3,) mm; `tilt_deg` turns it about the y axis (coronal plane).

    `layers`: (depth in mm, tissue) from the outside inwards. `rough`: amplitude in mm of the organ
    field that dents the surface. `clip`: stay below the diaphragm and inside the abdominal wall.
    """

    center: np.ndarray
    semi: np.ndarray
    layers: tuple[tuple[float, int], ...]
    tilt_deg: float = 0.0
    rough: float = 0.0
    clip: bool = False

    def distance(self, axes: Axes, reach: float = 0.0) -> tuple[Slices, np.ndarray]:
        """Box and approximate signed distance (mm, float32) in it, valid to `reach` mm outside."""
        span = self.semi + reach + 2 * self.rough
        if self.tilt_deg:
            span = np.maximum(span, [span[2], 0, span[0]])
        box = axes.box(self.center - span, self.center + span)
        z, y, x = (g - np.float32(c) for g, c in zip(axes.open_grid(box), self.center, strict=True))
        turn = np.deg2rad(self.tilt_deg)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        inverse = (1.0 / self.semi).astype(np.float32)
        long, across = (cos * z + sin * x) * inverse[0], (cos * x - sin * z) * inverse[2]
        middle = y * inverse[1]
        squares = long * long, middle * middle, across * across
        k0 = squares[0] + squares[2] + squares[1]
        k1 = (
            squares[0] * inverse[0] ** 2
            + squares[2] * inverse[2] ** 2
            + squares[1] * inverse[1] ** 2
        )
        k0, k1 = np.sqrt(k0), np.sqrt(k1)
        return box, k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))


@dataclass(frozen=True)
class Tube:
    """A chain of round cones through `points` (n, 3) mm with `radii` (n,) mm.

    `layers`, `rough` and `clip` as for `Ellipsoid`. `gas`: the lumen
    (inside `layers[-1]`) holds gas in front of this part of the tube's extent from front to back (0
    none, 1 all): gas rises to the front of a patient on the back, with one level surface.
    """

    points: np.ndarray
    radii: np.ndarray
    layers: tuple[tuple[float, int], ...]
    rough: float = 0.0
    clip: bool = False
    gas: float = 0.0

    def distance(self, axes: Axes, reach: float = 0.0) -> tuple[Slices, np.ndarray]:
        """Box and signed distance (mm, float32) in it, `FAR_MM` beyond `reach` mm outside."""
        pad = self.radii[:, None] + reach + 2 * self.rough
        low, high = self.points - pad, self.points + pad
        box = axes.box(low.min(0), high.max(0))
        distance = np.full([max(s.stop - s.start, 0) for s in box], FAR_MM, np.float32)
        for i in range(len(self.points) - 1):
            part = axes.box(np.minimum(low[i], low[i + 1]), np.maximum(high[i], high[i + 1]))
            inner = tuple(
                slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, box, strict=True)
            )
            view = distance[inner]
            if view.size:
                np.minimum(view, self._cone(axes.open_grid(part), i), out=view)
        return box, distance

    def _cone(self, grid: tuple[np.ndarray, ...], i: int) -> np.ndarray:
        start, step = self.points[i], self.points[i + 1] - self.points[i]
        z, y, x = (g - np.float32(c) for g, c in zip(grid, start, strict=True))
        sz, sy, sx = (np.float32(s) for s in step)
        unit = np.float32(1.0 / max(float(step @ step), 1e-6))
        along = np.clip((z * sz + y * sy) * unit + x * (sx * unit), 0, 1)
        dz, dy, dx = z - along * sz, y - along * sy, x - along * sx
        grow = np.float32(self.radii[i + 1] - self.radii[i])
        return np.sqrt(dz * dz + dy * dy + dx * dx) - (np.float32(self.radii[i]) + along * grow)

    @property
    def gas_level(self) -> float:
        """y (mm) of the level surface in front of which the lumen holds gas."""
        y = self.points[:, 1]
        front, back = (y - self.radii).min(), (y + self.radii).max()
        return float(front + self.gas * (back - front))


def smooth_curve(
    points: Sequence[Sequence[float]] | np.ndarray,
    radii: Sequence[float] | np.ndarray,
    samples: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cubic spline through control `points` (n, 3) and `radii` (n,): (samples, 3), (samples,)."""
    from scipy.interpolate import make_interp_spline

    control = np.column_stack([np.asarray(points, float), np.asarray(radii, float)])
    chord = np.concatenate(
        [[0], np.cumsum(np.linalg.norm(np.diff(control[:, :3], axis=0), axis=1))]
    )
    spline = make_interp_spline(chord, control, k=min(3, len(control) - 1))
    curve = spline(np.linspace(0, chord[-1], samples))
    return curve[:, :3], np.maximum(curve[:, 3], 0.3 * min(radii))


@dataclass(frozen=True)
class SmoothField:
    """A random field of mean 0 and variance about 1, smooth at `scale` mm, defined everywhere.

    Cubic B-splines on a lattice of normal draws that repeats every `nodes` nodes; a slab has the
    values that the whole volume has there.
    """

    scale: float
    lattice: np.ndarray = field(repr=False)  # (nodes, nodes, nodes)

    @staticmethod
    def draw(rng: np.random.Generator, scale: float, nodes: int = 32) -> SmoothField:
        lattice = rng.standard_normal((nodes, nodes, nodes), dtype=np.float32)
        # A cubic B-spline of unit white noise has the variance 0.479 ** 3 between and on the nodes.
        return SmoothField(scale, lattice / np.float32(0.479**1.5))

    def sample(self, axes: Axes) -> np.ndarray:
        """Values at the grid's points, float32 (z, y, x)."""
        wz, wy, wx = (self._weights(a) for a in (axes.z, axes.y, axes.x))
        nodes = self.lattice.shape[0]
        by_z = (wz @ self.lattice.reshape(nodes, -1)).reshape(-1, nodes, nodes)
        return np.matmul(np.matmul(wy, by_z), wx.T)

    def _weights(self, positions: np.ndarray) -> np.ndarray:
        nodes = self.lattice.shape[0]
        u = positions / self.scale
        first = np.floor(u).astype(int)
        t = (u - first).astype(np.float32)
        weights = np.zeros((len(positions), nodes), np.float32)
        rows = np.arange(len(positions))
        values = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        for offset, value in enumerate(values):
            weights[rows, (first + offset - 1) % nodes] += value
        return weights
