"""The trunk that organs are painted into: skin, fat, wall, cavity, lungs, spine, ribs and table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.phantom import anatomy
from data.phantom.anatomy import Tissue
from data.phantom.patient import Patient
from data.phantom.shapes import Axes

MOST_TAPER_MM = 12.0  # what the chest narrows by at most towards the head


@dataclass(frozen=True)
class Trunk:
    """Maps over the (y, x) grid and offsets per slice that bound the abdominal cavity.

    `inside`: distance (mm) from the inner surface of the wall, negative in the cavity; in slice k
    the surface is where it equals -`taper[k]`. `below`: height (mm) of the diaphragm.
    `wall`, `fat`: thickness (mm) of the muscular wall and of the subcutaneous fat, (y, 1).
    """

    inside: np.ndarray
    taper: np.ndarray
    below: np.ndarray
    wall: np.ndarray
    fat: np.ndarray


def measure_trunk(axes: Axes, patient: Patient) -> Trunk:
    """The patient's trunk on a grid."""
    y, x, z = _standard(axes, patient)
    front = np.clip(0.5 - y / 160, 0, 1)
    depth = np.hypot(y / patient.cavity_semi[0], x / patient.cavity_semi[1])
    dome = np.float32(anatomy.DOME_MM * patient.size) - 72 * depth**5 - 8 * (x > 0) * depth
    taper = 9 * np.square(np.maximum(z + 10, 0) / 100) + 4 * np.square(np.minimum(z + 30, 0) / 80)
    return Trunk(
        inside=_outline(y, x, patient.cavity_semi),
        taper=(taper * patient.size).astype(np.float32),
        below=(dome + patient.shift[0]).astype(np.float32),
        wall=(anatomy.WALL_MM * patient.size * (1.1 - 0.35 * front)).astype(np.float32),
        fat=(patient.fat_mm * (0.75 + 0.5 * front)).astype(np.float32),
    )


def paint_trunk(tissue: np.ndarray, axes: Axes, patient: Patient, trunk: Trunk) -> None:
    """Paint the trunk into `tissue` (z, y, x), in place."""
    y, x, z = _standard(axes, patient)
    _paint_layers(tissue, trunk, _table(y, x, patient, trunk), np.abs(x) / patient.cavity_semi[1])
    first = int(np.searchsorted(axes.z, trunk.below[trunk.inside < 0].min()))
    cavity = tissue[first:] == Tissue.VISCERAL_FAT
    lung = (axes.z[first:, None, None] > trunk.below + 2) & cavity
    np.copyto(tissue[first:], np.uint8(Tissue.LUNG), where=lung)
    size = np.float32(patient.size)
    _paint_spine(tissue, (z / size, y / size, x / size), trunk)
    _paint_ribs(tissue, z, trunk, np.arctan2(np.abs(x), y))


def _standard(axes: Axes, patient: Patient) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """y (n, 1), x (1, n) and z (n,) from the middle of this patient's body, mm."""
    shift = patient.shift.astype(np.float32)
    return (axes.y - shift[1])[:, None], (axes.x - shift[2])[None], axes.z - shift[0]


def _table(y: np.ndarray, x: np.ndarray, patient: Patient, trunk: Trunk) -> np.ndarray:
    back = patient.cavity_semi[0] + 0.75 * patient.fat_mm + 18
    return (np.abs(y - back + x * x / 900) < 1.5) & (np.abs(x) < 210)


def _paint_layers(tissue: np.ndarray, trunk: Trunk, table: np.ndarray, lateral: np.ndarray) -> None:
    """Shells of the trunk, slice by slice; thin planes of fat part the lateral muscles."""
    muscle = trunk.wall
    skin = muscle + trunk.fat + np.float32(anatomy.SKIN_MM)
    for taper, view in zip(trunk.taper, tissue, strict=True):
        inside = trunk.inside + taper
        view[table] = Tissue.TABLE
        view[inside < skin] = Tissue.SKIN
        view[inside < muscle + trunk.fat] = Tissue.FAT
        view[inside < muscle] = Tissue.MUSCLE
        layer = inside / muscle
        plane = (np.abs(layer - 0.34) < 0.05) | (np.abs(layer - 0.68) < 0.05)
        view[plane & (lateral > 0.55)] = Tissue.FAT
        view[inside < 0] = Tissue.VISCERAL_FAT


def _paint_spine(tissue: np.ndarray, at: tuple[np.ndarray, ...], trunk: Trunk) -> None:
    """Muscles along the spine, vertebral bodies with discs, canal, arch and processes."""
    z, y, x = at
    side = np.abs(x)
    muscle = _ellipse(y, side, (78, 33), (28, 35)) < 1
    muscle |= _ellipse(y, side, (47, 33), (18, 15)) < 1  # psoas and crura
    muscle |= (y > 70) & (side < 8)
    arch = _ellipse(y, side, (74, 0), (12, 16)) < 1
    spinous = (np.abs(y - 92) < 12) & (side < 3.2)
    process = (np.abs(y - 74 + 0.12 * side) < 3.2) & (side < 36)
    canal = _ellipse(y, side, (73, 0), (7.5, 9)) < 1
    body = _ellipse(y, side, (anatomy.SPINE_Y, 0), (17, 23))
    deep = trunk.inside - trunk.wall - 0.5 * trunk.fat
    phase = np.mod(z, anatomy.VERTEBRA_MM)
    for height, taper, view in zip(phase, trunk.taper, tissue, strict=True):
        within = deep < -taper
        view[muscle & within] = Tissue.MUSCLE
        if 4 < height < 31:
            view[arch & within] = Tissue.CORTICAL_BONE
        if 8 < height < 26:
            view[spinous & within] = Tissue.CORTICAL_BONE
        if 15 < height < 25:
            view[process & within] = Tissue.CORTICAL_BONE
        view[canal] = Tissue.CANAL
        view[body < 1] = Tissue.DISC if height < 7.5 else Tissue.CORTICAL_BONE
        if 9.0 < height < anatomy.VERTEBRA_MM - 1.5:
            view[body < 0.88] = Tissue.MARROW


def _paint_ribs(tissue: np.ndarray, z: np.ndarray, trunk: Trunk, angle: np.ndarray) -> None:
    """Ribs run in the wall and fall from the spine (angle 0) to the front (angle pi)."""
    ring = (trunk.inside < trunk.wall) & (trunk.inside > -MOST_TAPER_MM) & (angle > 0.35)
    rows, columns = np.nonzero(ring)
    turn = angle[rows, columns] / np.pi
    along = (z[:, None] + anatomy.RIB_DROP_MM * turn**1.3 + 20) / anatomy.RIB_STEP_MM
    number = np.round(along)
    level = (trunk.inside[rows, columns] + trunk.taper[:, None]) / trunk.wall[rows, 0]
    across = np.hypot((along - number) * anatomy.RIB_STEP_MM / 6.5, (level - 0.42) / 0.36)
    there = (across < 1) & (number > 0.5) & (turn < np.minimum(0.3 + 0.12 * number, 0.88))
    kind = np.where(across > 0.74, Tissue.CORTICAL_BONE, Tissue.MARROW)
    kind = np.where(turn > np.minimum(0.25 + 0.09 * number, 0.76), Tissue.CARTILAGE, kind)
    tissue[:, rows, columns] = np.where(there, kind, tissue[:, rows, columns]).astype(np.uint8)


def _ellipse(
    y: np.ndarray, x: np.ndarray, center: tuple[float, float], semi: tuple[float, float]
) -> np.ndarray:
    return ((y - center[0]) / semi[0]) ** 2 + ((x - center[1]) / semi[1]) ** 2


def _outline(y: np.ndarray, x: np.ndarray, semi: tuple[float, float]) -> np.ndarray:
    """Signed distance (mm, first order) from a superellipse of exponent 2.4: a trunk's shape."""
    ay, ax = np.abs(y / semi[0]), np.abs(x / semi[1])
    power = 2.4
    level = np.maximum((ay**power + ax**power) ** (1 / power), 1e-3)
    gy = (ay / level) ** (power - 1) / semi[0]
    gx = (ax / level) ** (power - 1) / semi[1]
    return ((level - 1) / np.hypot(gy, gx)).astype(np.float32)
