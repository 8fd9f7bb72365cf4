"""What grows in the pancreas: PDA, IPMN, PNET, at a random place along it, and bile stents.

Contrast is relative to the parenchyma of the same phase. The figures are the usual ones of
radiology teaching: ductal adenocarcinoma (PDA) enhances less than the gland by some 20-45 HU,
infiltrates without a clear edge and dams the duct behind it; an IPMN is a cluster of fluid-filled
cysts that opens into the duct; a neuroendocrine tumor (PNET) is round, sharp and enhances more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data.phantom.anatomy import DUCT_MM, Tissue
from data.phantom.patient import Pancreas, Scene
from data.phantom.shapes import Axes, Slices, SmoothField, Tube


@dataclass(frozen=True)
class LesionKind:
    """Numbers of one kind of lesion; every pair is a uniform range.

    `contrast_hu`: HU over the parenchyma's, or `absolute_hu` where the content is fluid.
    `edge_mm`: half-width of the zone in which lesion and parenchyma mix. `rough_mm`: amplitude of
    the irregular boundary. `cysts`: how many spheres make it. `texture_hu`: its inside's standard
    deviation. `duct_mm`: radius of the main duct upstream.
    """

    contrast_hu: tuple[float, float] | None
    absolute_hu: tuple[float, float] | None
    edge_mm: float
    rough_mm: float
    cysts: tuple[int, int]
    texture_hu: float
    duct_mm: tuple[float, float]


KINDS = {
    "PDA": LesionKind((-46, -28), None, 2.2, 1.7, (1, 1), 7.0, (1.6, 3.2)),
    "IPMN": LesionKind(None, (4, 22), 0.7, 0.6, (4, 7), 2.0, (1.6, 3.0)),
    "PNET": LesionKind((30, 60), None, 1.0, 0.7, (1, 1), 9.0, (DUCT_MM, DUCT_MM)),
}

REGIONS = {"head": (0.14, 0.40), "body": (0.46, 0.70), "tail": (0.72, 0.93)}  # of the axis's length
REGION_ODDS = {"head": 0.5, "body": 0.27, "tail": 0.23}  # heads carry most PDA
STENT_RADIUS_MM = (2.0, 4.0)  # plastic to self-expanding metal
STENT_WALL_MM = 0.9


@dataclass(frozen=True)
class LesionMix:
    """The lesions of a center: odds per kind, range of diameters (mm) per size of the data set,
    odds of a stent where a PDA lies in the head, and the share of cases that have no lesion."""

    odds: tuple[tuple[str, float], ...]
    diameter_mm: dict[str, tuple[float, float]]
    stent_odds: float = 0.0
    free_share: float = 0.0


@dataclass(frozen=True)
class Lesion:
    """One drawn lesion: spheres (k, 3) mm with radii (k,), squeezed by `stretch` (3,)."""

    kind: str
    region: str
    diameter_mm: float
    spheres: np.ndarray
    radii: np.ndarray
    stretch: np.ndarray
    level_hu: float  # over the parenchyma's, or absolute for an IPMN
    stent: bool

    def distance(self, axes: Axes, rough: SmoothField) -> tuple[Slices, np.ndarray]:
        """Box and signed distance (mm, float32, negative inside), 8 mm of surroundings included."""
        kind = KINDS[self.kind]
        reach = (self.radii.max() + 8) * np.maximum(self.stretch, 1)
        box = axes.box(self.spheres.min(0) - reach, self.spheres.max(0) + reach)
        near = Axes(axes.z[box[0]], axes.y[box[1]], axes.x[box[2]])
        whole = slice(None), slice(None), slice(None)
        distance = np.full(near.shape, 1e3, np.float32)
        for center, radius in zip(self.spheres, self.radii, strict=True):
            parts = [
                ((g - np.float32(c)) / np.float32(s)) ** 2
                for g, c, s in zip(near.open_grid(whole), center, self.stretch, strict=True)
            ]
            np.minimum(distance, np.sqrt(sum(parts)) - np.float32(radius), out=distance)
        if distance.size:
            distance += np.float32(kind.rough_mm) * rough.sample(near)
        return box, distance


def draw_lesion(rng: np.random.Generator, mix: LesionMix, size: str, pancreas: Pancreas) -> Lesion:
    """A lesion of the center's mix somewhere along the pancreas, most of it inside the gland."""
    names, odds = zip(*mix.odds, strict=True)
    name = str(rng.choice(names, p=np.array(odds) / sum(odds)))
    region = str(rng.choice(list(REGION_ODDS), p=list(REGION_ODDS.values())))
    kind, diameter = KINDS[name], rng.uniform(*mix.diameter_mm[size])
    axis, width = pancreas.outline.points, pancreas.outline.radii
    place = round(rng.uniform(*REGIONS[region]) * (len(axis) - 1))
    aside = rng.standard_normal(3)
    aside *= 0.3 * width[place] / np.linalg.norm(aside)
    center, radius = axis[place] + aside, diameter / 2
    count = int(rng.integers(kind.cysts[0], kind.cysts[1] + 1))
    spheres, radii = center[None], np.array([radius])
    if count > 1:
        offsets = rng.standard_normal((count, 3))
        offsets *= rng.uniform(0.35, 0.6, (count, 1)) / np.linalg.norm(
            offsets, axis=1, keepdims=True
        )
        offsets[0] = 0
        spheres, radii = center + radius * offsets, radius * rng.uniform(0.45, 0.65, count)
    level = rng.uniform(*(kind.contrast_hu or kind.absolute_hu or (0, 0)))
    stretch = rng.uniform(0.85, 1.15, 3)
    stretch /= np.cbrt(stretch.prod())
    stent = region == "head" and name == "PDA" and bool(rng.random() < mix.stent_odds)
    return Lesion(name, region, diameter, spheres, radii, stretch, level, stent)


def grow(rng: np.random.Generator, scene: Scene, lesion: Lesion) -> Scene:
    """The scene with what the lesion does around it: the gland swells, the duct behind it widens
    while the gland there shrinks, and a stent lies in the bile duct where the lesion has one."""
    pancreas, kind = scene.pancreas, KINDS[lesion.kind]
    axis, width = pancreas.outline.points, pancreas.outline.radii.copy()
    center = lesion.spheres[0]
    gap = np.linalg.norm(axis - center, axis=1)
    place = int(gap.argmin())
    if kind.duct_mm[1] > DUCT_MM:
        width[place:] *= rng.uniform(0.82, 1.0)
    swollen = np.sqrt(np.maximum((0.97 * lesion.diameter_mm / 2) ** 2 - gap**2, 0))
    outline = replace(pancreas.outline, radii=np.maximum(width, swollen))
    towards_tail = pancreas.duct.points
    wide = np.where(
        np.linalg.norm(towards_tail - axis[-1], axis=1) < np.linalg.norm(center - axis[-1]),
        rng.uniform(*kind.duct_mm),
        DUCT_MM,
    )
    foreground = scene.foreground
    if lesion.stent:
        bile = foreground[-1]
        assert isinstance(bile, Tube)
        radius = rng.uniform(*STENT_RADIUS_MM)
        layers = ((0.0, int(Tissue.STENT)), (STENT_WALL_MM, int(Tissue.BILE)))
        stented = replace(bile, radii=np.full(len(bile.radii), radius), layers=layers)
        foreground = (*foreground[:-1], stented)
    duct = replace(pancreas.duct, radii=wide)
    return replace(scene, pancreas=Pancreas(outline, duct), foreground=foreground)
