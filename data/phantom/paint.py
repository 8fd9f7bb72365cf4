"""From a scene's shapes to arrays: a tissue map on a fine grid, slab by slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.phantom import anatomy
from data.phantom.anatomy import Tissue
from data.phantom.lesion import Lesion
from data.phantom.patient import Patient, Scene
from data.phantom.shapes import Axes, Ellipsoid, Slices, SmoothField, Tube

FAT_RIM_MM = 1.6  # fat plane between the pancreas and what it does not touch
KEPT = np.zeros(256, bool)  # what a lesion does not replace: vessels, bile duct, stent, air, bone
KEPT[[Tissue.ARTERY, Tissue.PORTAL_VEIN, Tissue.CAVA, Tissue.BILE, Tissue.STENT, Tissue.GAS]] = True
KEPT[[Tissue.CORTICAL_BONE, Tissue.MARROW, Tissue.LUNG, Tissue.DISC]] = True


@dataclass(frozen=True)
class Fields:
    """Random fields of one patient: dents of organs, lobules, lumps of a lesion's outline."""

    organ: SmoothField
    lobule: SmoothField
    lesion: SmoothField

    @staticmethod
    def draw(rng: np.random.Generator) -> Fields:
        return Fields(*(SmoothField.draw(rng, scale) for scale in (15.0, 5.0, 8.0)))


@dataclass(frozen=True)
class Slab:
    """Some slices of a patient: `tissue` uint8 and the lobule field, (z, y, x), and the lesion's
    distance (mm) in its box, or None."""

    tissue: np.ndarray
    lobule: np.ndarray
    lesion: tuple[Slices, np.ndarray] | None


class Canvas:
    """A tissue map over `axes`, painted from the outside of the body inwards."""

    def __init__(self, axes: Axes, patient: Patient, fields: Fields) -> None:
        self.axes = axes
        self.tissue = np.zeros(axes.shape, np.uint8)
        self.organ = fields.organ.sample(axes)
        self.lobule = fields.lobule.sample(axes)
        self._paint_body(patient)

    def _paint_body(self, patient: Patient) -> None:
        """Skin, fat, wall, cavity, lungs, spine, ribs and table; all but ribs depend on 2D maps."""
        y = (self.axes.y - np.float32(patient.shift[1]))[:, None]
        x = (self.axes.x - np.float32(patient.shift[2]))[None]
        z = self.axes.z - np.float32(patient.shift[0])
        size = np.float32(patient.size)
        inside = _outline(y, x, patient.cavity_semi)  # mm, negative in the cavity
        front = np.clip(0.5 - y / 160, 0, 1)
        fat = np.float32(patient.fat_mm) * (0.75 + 0.5 * front)
        wall = np.float32(anatomy.WALL_MM) * size * (1.1 - 0.35 * front)
        bounds = (
            (Tissue.SKIN, wall + fat + np.float32(anatomy.SKIN_MM)),
            (Tissue.FAT, wall + fat),
            (Tissue.MUSCLE, wall),
            (Tissue.VISCERAL_FAT, 0 * wall),
        )
        flat = np.zeros(inside.shape, np.uint8)
        for tissue, thickness in bounds:
            flat[inside < thickness] = tissue
        table = np.abs(y - x * x / 900 - (patient.cavity_semi[0] + fat.max() * 0.75 + 20)) < 1.5
        flat[table & (flat == Tissue.AIR) & (np.abs(x) < 210)] = Tissue.TABLE
        self.tissue[:] = flat
        depth = np.hypot(y / patient.cavity_semi[0], x / patient.cavity_semi[1])
        dome = np.float32(anatomy.DOME_MM) * size - 72 * depth**5 - 8 * (x > 0) * depth
        self.below = dome + np.float32(patient.shift[0])
        self.cavity = inside
        first = int(np.searchsorted(self.axes.z, self.below[inside < 0].min()))
        lung = (self.axes.z[first:, None, None] > self.below + 2) & (inside < -1)
        np.copyto(self.tissue[first:], np.uint8(Tissue.LUNG), where=lung)
        self._paint_spine(z / size, y / size, x / size)
        self._paint_ribs(z, inside / wall, np.arctan2(np.abs(x), y))

    def _paint_spine(self, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> None:
        """Muscles beside it, vertebral bodies with discs, canal, arch and processes."""
        side = np.abs(x)
        flat = np.zeros(np.broadcast_shapes(y.shape, x.shape), np.uint8)
        flat[_ellipse(y, side, (76, 33), (26, 34)) < 1] = Tissue.MUSCLE
        flat[_ellipse(y, side, (48, 31), (17, 15)) < 1] = Tissue.MUSCLE  # psoas and crura
        flat[(y > 70) & (side < 8)] = Tissue.MUSCLE
        arch = (_ellipse(y, side, (72, 0), (13, 15)) < 1) | (
            (np.abs(y - 90) < 13) & (side < 3.5 + 0.02 * (y - 80))
        )
        arch |= (np.abs(y - 72 - 0.15 * side) < 4.5) & (side < 38)
        flat[arch] = Tissue.CORTICAL_BONE
        flat[_ellipse(y, side, (72, 0), (7.5, 9)) < 1] = Tissue.CANAL
        painted = flat > 0
        flat_body = _ellipse(y, side, (anatomy.SPINE_Y, 0), (15.5, 21))
        wall = self.cavity < anatomy.WALL_MM * 0.9
        np.copyto(self.tissue, flat, where=painted & wall)
        phase = np.mod(z, anatomy.VERTEBRA_MM)[:, None, None]
        disc = phase < 7.5
        end = (phase < 9.0) | (phase > anatomy.VERTEBRA_MM - 1.5)
        bone = np.where(end | (flat_body > 0.87), Tissue.CORTICAL_BONE, Tissue.MARROW)
        body = np.where(disc, Tissue.DISC, bone).astype(np.uint8)
        np.copyto(self.tissue, body, where=flat_body < 1)

    def _paint_ribs(self, z: np.ndarray, level: np.ndarray, angle: np.ndarray) -> None:
        """Ribs run in the wall and fall from the spine (angle 0) to the front (angle pi)."""
        rows, columns = np.nonzero((level > 0.05) & (level < 0.75) & (angle > 0.35))
        turn = angle[rows, columns] / np.pi
        along = (z[:, None] + anatomy.RIB_DROP_MM * turn**1.3 + 20) / anatomy.RIB_STEP_MM
        number = np.round(along)
        across = np.hypot(
            (along - number) * anatomy.RIB_STEP_MM / 6.5, (level[rows, columns] - 0.4) / 0.34
        )
        there = (across < 1) & (number > 0.5) & (turn < 0.3 + 0.17 * number)
        kind = np.where(across > 0.72, Tissue.CORTICAL_BONE, Tissue.MARROW)
        kind = np.where(turn > 0.25 + 0.12 * number, Tissue.CARTILAGE, kind)
        ring = self.tissue[:, rows, columns]
        self.tissue[:, rows, columns] = np.where(there, kind, ring).astype(np.uint8)

    def paint(self, shape: Ellipsoid | Tube) -> None:
        """Paint a shape's layers, then its gas."""
        box, distance = shape.distance(self.axes)
        if not distance.size:
            return
        if shape.rough:
            distance += np.float32(shape.rough) * self.organ[box]
        if shape.clip:
            z = self.axes.z[box[0]][:, None, None]
            np.maximum(distance, z - self.below[box[1:]], out=distance)
            np.maximum(distance, self.cavity[box[1:]] + 1, out=distance)
        view = self.tissue[box]
        for depth, tissue in shape.layers:
            np.copyto(view, np.uint8(tissue), where=distance < -depth)
        if isinstance(shape, Tube) and shape.gas > 0:
            front = self.axes.y[box[1]][:, None] < shape.gas_level
            lumen = distance < -shape.layers[-1][0]
            np.copyto(view, np.uint8(Tissue.GAS), where=lumen & front)

    def paint_pancreas(self, scene: Scene) -> None:
        """The gland with lobules in a thin fat plane, and its duct."""
        outline = scene.pancreas.outline
        box, distance = outline.distance(self.axes, reach=FAT_RIM_MM + 1)
        if not distance.size:
            return
        distance += np.float32(outline.rough) * self.lobule[box]
        view = self.tissue[box]
        np.copyto(view, np.uint8(Tissue.VISCERAL_FAT), where=distance < FAT_RIM_MM)
        np.copyto(view, np.uint8(Tissue.PANCREAS), where=distance < 0)
        box, distance = scene.pancreas.duct.distance(self.axes)
        view = self.tissue[box]
        np.copyto(view, np.uint8(Tissue.DUCT), where=(distance < 0) & (view == Tissue.PANCREAS))


def paint_slab(axes: Axes, scene: Scene, lesion: Lesion | None, fields: Fields) -> Slab:
    """Paint the part of a scene that `axes` covers; slabs of one patient fit together exactly."""
    canvas = Canvas(axes, scene.patient, fields)
    for shape in scene.background:
        canvas.paint(shape)
    canvas.paint_pancreas(scene)
    for shape in scene.foreground:
        canvas.paint(shape)
    found = None if lesion is None else lesion.distance(axes, fields.lesion)
    return Slab(canvas.tissue, canvas.lobule, found)


def fine_label(slab: Slab) -> np.ndarray:
    """Label on the fine grid, uint8: 1 where gland or its duct, 2 where the lesion is."""
    label = np.isin(slab.tissue, (Tissue.PANCREAS, Tissue.DUCT)).view(np.uint8)
    if slab.lesion is not None:
        box, distance = slab.lesion
        inside = (distance < 0) & ~KEPT[slab.tissue[box]]
        np.copyto(label[box], np.uint8(2), where=inside)
    return label


def _ellipse(
    y: np.ndarray, x: np.ndarray, center: tuple[float, float], semi: tuple[float, float]
) -> np.ndarray:
    return ((y - center[0]) / semi[0]) ** 2 + ((x - center[1]) / semi[1]) ** 2


def _outline(y: np.ndarray, x: np.ndarray, semi: tuple[float, float]) -> np.ndarray:
    """Signed distance (mm, first order) from a superellipse of exponent 2.4: a trunk's shape."""
    ay, ax = np.abs(y / semi[0]), np.abs(x / semi[1])
    power = 2.4
    level = (ay**power + ax**power) ** (1 / power)
    level = np.maximum(level, 1e-3)
    gy = (ay / level) ** (power - 1) / semi[0]
    gx = (ax / level) ** (power - 1) / semi[1]
    return ((level - 1) / np.hypot(gy, gx)).astype(np.float32)
