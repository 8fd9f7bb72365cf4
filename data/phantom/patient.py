"""One patient: the standard anatomy, randomly deformed, jittered per organ, with random parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.phantom import anatomy
from data.phantom.anatomy import Build, Tissue
from data.phantom.shapes import Ellipsoid, Tube, smooth_curve


@dataclass(frozen=True)
class Patient:
    """One drawn patient: how the standard tables become this body."""

    size: float
    cavity_semi: tuple[float, float]
    fat_mm: float
    oral_contrast: float
    shift: np.ndarray  # (3,) mm
    waves: tuple[
        np.ndarray, np.ndarray, np.ndarray
    ]  # directions (k, 3), phases (k,), amplitudes (k, 3)

    def place(self, points: object) -> np.ndarray:
        """Standard positions (..., 3) mm to this patient's."""
        at = np.asarray(points, float) * self.size
        directions, phases, amplitudes = self.waves
        return at + self.shift + np.sin(at @ directions.T + phases) @ amplitudes


def draw_patient(rng: np.random.Generator, build: Build) -> Patient:
    """A random patient of `build`."""
    size, visceral = rng.uniform(*build.size), rng.uniform(*build.visceral)
    directions = rng.standard_normal((4, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions *= 2 * np.pi / rng.uniform(160, 320, (4, 1))  # wavelengths in mm
    return Patient(
        size=size,
        cavity_semi=(
            anatomy.CAVITY_SEMI[0] * size * visceral,
            anatomy.CAVITY_SEMI[1] * size * visceral,
        ),
        fat_mm=rng.uniform(*build.fat_mm),
        oral_contrast=build.oral_contrast,
        shift=rng.uniform(-1, 1, 3) * (8, 3, 4),
        waves=(
            directions,
            rng.uniform(0, 2 * np.pi, 4),
            rng.standard_normal((4, 3)) * build.warp_mm / 2,
        ),
    )


@dataclass(frozen=True)
class Pancreas:
    """The gland's outline, its axis from the uncinate process to the tail, and its main duct."""

    outline: Tube
    duct: Tube


@dataclass(frozen=True)
class Scene:
    """Every shape of one patient in painting order: later ones lie over earlier ones."""

    patient: Patient
    background: tuple[Ellipsoid | Tube, ...]  # below the pancreas
    pancreas: Pancreas
    foreground: tuple[Ellipsoid | Tube, ...]  # vessels and bile duct, over pancreas and lesion


def draw_pancreas(rng: np.random.Generator, patient: Patient) -> Pancreas:
    """The pancreas: control points jittered, the tail raised or lowered, splines through them."""
    points = np.array(anatomy.PANCREAS_POINTS, float) + rng.normal(
        0, 2.0, (len(anatomy.PANCREAS_POINTS), 3)
    )
    to_tail = np.linspace(0, 1, len(points)) ** 2
    points += to_tail[:, None] * rng.uniform(-1, 1, 3) * (14, 6, 4)
    radii = (
        np.array(anatomy.PANCREAS_RADII)
        * rng.uniform(0.9, 1.1)
        * rng.uniform(0.94, 1.06, len(points))
    )
    axis, width = smooth_curve(patient.place(points), radii * patient.size, 34)
    outline = Tube(axis, width, ((0, Tissue.PANCREAS),), rough=anatomy.LOBULATION_MM)
    inner = slice(4, -2)
    duct = Tube(axis[inner], np.full(len(axis[inner]), anatomy.DUCT_MM), ((0, Tissue.DUCT),))
    return Pancreas(outline, duct)


def draw_scene(rng: np.random.Generator, patient: Patient) -> Scene:
    """All shapes of a patient: the tables, deformed and jittered, and the random parts."""
    pancreas = draw_pancreas(rng, patient)
    background = [
        *_mesentery(rng, patient),
        *_solids(rng, patient),
        *_cysts(rng, patient),
        *_hollows(rng, patient),
        *_jejunum(rng, patient),
    ]
    for points, radii in anatomy.ADRENALS:
        curve, width = smooth_curve(patient.place(points), radii, 8)
        background.append(Tube(curve, width, ((0, Tissue.ADRENAL),)))
    if rng.random() < 0.85:  # the others have had it taken out
        semi = np.array(anatomy.GALLBLADDER[1]) * rng.uniform(0.6, 1.15) * patient.size
        center = patient.place(anatomy.GALLBLADDER[0])
        background.append(Ellipsoid(center, semi, ((0, Tissue.BOWEL_WALL), (1.5, Tissue.BILE))))
    foreground = []
    for points, radii, tissue in anatomy.VESSELS.values():
        moved = patient.place(np.array(points) + rng.normal(0, 1.2, (len(points), 3)))
        curve, width = smooth_curve(
            moved, np.array(radii) * rng.uniform(0.88, 1.12), 3 * len(points)
        )
        foreground.append(Tube(curve, width, ((0, Tissue[tissue]),)))
    curve, width = smooth_curve(
        patient.place(anatomy.BILE_DUCT[0]), np.array(anatomy.BILE_DUCT[1]), 14
    )
    foreground.append(Tube(curve, width * rng.uniform(0.8, 1.3), ((0, Tissue.BILE),)))
    return Scene(patient, tuple(background), pancreas, tuple(foreground))


def _solids(rng: np.random.Generator, patient: Patient) -> list[Ellipsoid | Tube]:
    shapes: list[Ellipsoid | Tube] = []
    for center, semi, layers, tilt, rough, clip in anatomy.SOLID_ORGANS.values():
        at = patient.place(np.array(center) + rng.normal(0, 2.5, 3))
        axes = np.array(semi) * patient.size * rng.uniform(0.92, 1.08, 3)
        shapes.append(Ellipsoid(at, axes, layers, tilt + rng.normal(0, 3), rough, clip))
    return shapes


def _cysts(rng: np.random.Generator, patient: Patient) -> list[Ellipsoid | Tube]:
    """Renal cysts on the kidneys, hepatic ones in the liver: an IPMN's grey values."""
    shapes: list[Ellipsoid | Tube] = []
    sites = (((-4, 40, 62), 22.0, 24.0), ((-20, 40, -60), 22.0, 24.0), ((30, -10, -70), 45.0, 15.0))
    for center, away, largest in sites:
        for _ in range(rng.poisson(0.8)):
            direction = rng.standard_normal(3)
            direction /= np.linalg.norm(direction)
            radius = rng.uniform(4, largest) * rng.uniform(0.5, 1.0)
            at = patient.place(np.array(center) + away * direction)
            shapes.append(Ellipsoid(at, np.full(3, radius), ((0, Tissue.CYST),), clip=True))
    return shapes


def _contents(rng: np.random.Generator, patient: Patient, layers: tuple) -> tuple:
    """The organ's layers with what this patient's lumen happens to hold."""
    (_, wall), (wall_mm, filling) = layers
    if filling == Tissue.CHYME:
        filling = Tissue.FLUID if rng.random() < 0.45 else Tissue.CHYME
        if rng.random() < patient.oral_contrast:
            filling = Tissue.ORAL_CONTRAST
    return ((0.0, wall), (wall_mm * rng.uniform(0.8, 1.3), filling))


def _hollows(rng: np.random.Generator, patient: Patient) -> list[Ellipsoid | Tube]:
    shapes: list[Ellipsoid | Tube] = []
    for points, radii, layers, rough, clip, gas in anatomy.HOLLOW_ORGANS.values():
        moved = patient.place(np.array(points) + rng.normal(0, 2.0, (len(points), 3)))
        wide = np.array(radii) * patient.size * rng.uniform(0.85, 1.1)
        curve, width = smooth_curve(moved, wide, 4 * len(points))
        filled = layers if len(layers) == 1 else _contents(rng, patient, layers)
        shapes.append(Tube(curve, width, filled, rough, clip, rng.uniform(*gas)))
    return shapes


def _jejunum(rng: np.random.Generator, patient: Patient) -> list[Ellipsoid | Tube]:
    """Unopacified small-bowel loops left of and below the pancreas, some next to body and tail."""
    shapes: list[Ellipsoid | Tube] = []
    low, high = np.array(anatomy.JEJUNUM_BOX)
    for _ in range(anatomy.JEJUNUM_LOOPS):
        walk = rng.uniform(low, high) + np.cumsum(rng.normal(0, 22, (4, 3)), axis=0)
        points = np.clip(walk, low, high) + rng.normal(0, 4, (4, 3))
        radii = np.full(4, rng.uniform(*anatomy.JEJUNUM_MM))
        curve, width = smooth_curve(patient.place(points), radii, 12)
        layers = _contents(rng, patient, anatomy.BOWEL)
        shapes.append(Tube(curve, width, layers, 2.0, True, rng.uniform(-0.5, 0.4)))
    return shapes


def _mesentery(rng: np.random.Generator, patient: Patient) -> list[Ellipsoid | Tube]:
    """Small vessels and nodes that make mesenteric fat other than empty."""
    shapes: list[Ellipsoid | Tube] = []
    for _ in range(anatomy.MESENTERY_VESSELS):
        start = rng.uniform((-90, -50, -40), (30, 0, 70))
        end = start + rng.normal(0, 1, 3) * (24, 14, 26) + (-10, -10, 6)
        middle = (start + end) / 2 + rng.normal(0, 5, 3)
        curve, width = smooth_curve(patient.place([start, middle, end]), (1.9, 1.5, 0.9), 6)
        vessel = Tissue.PORTAL_VEIN if rng.random() < 0.6 else Tissue.ARTERY
        shapes.append(Tube(curve, width, ((0, vessel),), clip=True))
    return shapes
