"""From a scene's shapes to arrays: a tissue map on a fine grid, slab by slab."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.phantom.anatomy import Tissue
from data.phantom.lesion import Lesion
from data.phantom.patient import Patient, Scene
from data.phantom.shapes import Axes, Ellipsoid, Slices, SmoothField, Tube
from data.phantom.trunk import measure_trunk, paint_trunk

FAT_RIM_MM = 1.6  # fat plane between the pancreas and what it does not touch
KEPT = np.zeros(256, bool)  # what a lesion does not replace: vessels, bile duct, stent, air, bone
KEPT[[Tissue.ARTERY, Tissue.PORTAL_VEIN, Tissue.CAVA, Tissue.BILE, Tissue.STENT, Tissue.GAS]] = True
KEPT[[Tissue.CORTICAL_BONE, Tissue.MARROW, Tissue.LUNG, Tissue.DISC]] = True

FRAME = np.zeros(256, bool)  # what an organ that is clipped to the cavity does not grow into
FRAME[[Tissue.CORTICAL_BONE, Tissue.MARROW, Tissue.DISC, Tissue.MUSCLE, Tissue.CANAL]] = True


@dataclass(frozen=True)
class Fields:
    """Random fields of one patient: dents of organs, lobules, lumps of a lesion's outline."""

    organ: SmoothField
    lobule: SmoothField
    lesion: SmoothField

    @staticmethod
    def draw(rng: np.random.Generator) -> Fields:
        return Fields(*(SmoothField.draw(rng, scale) for scale in (15.0, 6.0, 8.0)))


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
        self.trunk = measure_trunk(axes, patient)
        paint_trunk(self.tissue, axes, patient, self.trunk)

    def paint(self, shape: Ellipsoid | Tube) -> None:
        """Paint a shape's layers, then its gas."""
        box, distance = shape.distance(self.axes)
        if not distance.size:
            return
        if shape.rough:
            distance += np.float32(shape.rough) * self.organ[box]
        if shape.clip:
            trunk, z = self.trunk, self.axes.z[box[0]][:, None, None]
            np.maximum(distance, z - trunk.below[box[1:]], out=distance)
            taper = trunk.taper[box[0]][:, None, None]
            np.maximum(distance, trunk.inside[box[1:]] + (taper + 1), out=distance)
        view = self.tissue[box]
        free = ~FRAME[view] if shape.clip else np.True_
        for depth, tissue in shape.layers:
            np.copyto(view, np.uint8(tissue), where=(distance < -depth) & free)
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
