"""One phantom case: plan it (all random choices), paint it slab by slab, scan it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from data.phantom.appearance import Look, add_scanner, average, draw_look, fine_hu, majority
from data.phantom.centers import CENTERS, Center
from data.phantom.lesion import Lesion, LesionMix, draw_lesion, grow
from data.phantom.paint import Fields, fine_label, paint_slab
from data.phantom.patient import Scene, draw_patient, draw_scene
from data.phantom.shapes import Axes

SLAB_VOXELS = 6_000_000  # fine voxels painted at a time: bounds the memory of a full-size case
CENTER_Z_MM = 4.0  # the middle of the covered height over the pancreatic neck


@dataclass(frozen=True)
class Plan:
    """Everything about a case before a voxel is drawn."""

    scene: Scene
    lesion: Lesion | None
    look: Look
    fields: Fields
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    fine: tuple[int, int, int]
    noise_seed: np.random.SeedSequence

    @property
    def facts(self) -> dict[str, str]:
        """What a table of the cases says about this one."""
        lesion = self.lesion
        return {
            "lesion": "none" if lesion is None else lesion.kind,
            "region": "" if lesion is None else lesion.region,
            "diameter_mm": "" if lesion is None else f"{lesion.diameter_mm:.1f}",
            "stent": "" if lesion is None else str(lesion.stent).lower(),
            "phase": self.look.phase,
            "noise_hu": f"{self.look.noise_hu:.1f}",
        }


@dataclass(frozen=True)
class Phantom:
    """`image_hu` int16 and `label` uint8, (z, y, x) in the canonical orientation LPS; `spacing` and
    `origin` (position of the first voxel) in mm, (z, y, x)."""

    image_hu: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    facts: dict[str, str]


def plan_case(name: str, index: int, size: str, seed: int, changed: Center | None = None) -> Plan:
    """All random choices of case `index` (from 0) of a center; independent of every other case.

    `changed`: draw the same patient, as far as it can be, as a patient of this center.
    """
    if name not in CENTERS:
        raise ValueError(f"unknown center {name!r}; choose from {', '.join(sorted(CENTERS))}")
    center = CENTERS[name] if changed is None else changed
    if size not in center.sizes:
        raise ValueError(f"unknown size {size!r}; choose from {', '.join(sorted(center.sizes))}")
    entropy = (seed, zlib.crc32(name.encode()), zlib.crc32(size.encode()), index)
    # a child's numbers do not depend on how many there are
    body, growth, scan, noise, absence = np.random.SeedSequence(entropy).spawn(5)
    rng = np.random.default_rng(body)
    scene = draw_scene(rng, draw_patient(rng, center.build))
    fields = Fields.draw(rng)
    rng = np.random.default_rng(growth)
    lesion = None
    if center.lesions is not None and not _is_free(absence, center.lesions):
        lesion = draw_lesion(rng, center.lesions, size, scene.pancreas)
        scene = grow(rng, scene, lesion)
    rng = np.random.default_rng(scan)
    look = draw_look(rng, center.scanner)
    shape, spacing, fine = _draw_grid(rng, center, size)
    return Plan(scene, lesion, look, fields, shape, spacing, fine, noise)


def _is_free(absence: np.random.SeedSequence, mix: LesionMix) -> bool:
    """Whether a case has no lesion; those that have one are what they are without a free share."""
    return bool(np.random.default_rng(absence).random() < mix.free_share)


def _draw_grid(
    rng: np.random.Generator, center: Center, size: str
) -> tuple[tuple[int, int, int], tuple[float, float, float], tuple[int, int, int]]:
    grid = center.sizes[size]
    pixel = round(rng.uniform(*grid.spacing_mm), 3)
    thickness = round(rng.uniform(*grid.thickness_mm), 2)
    slices = round(rng.uniform(*grid.height_mm) / thickness)
    fine_z = int(np.ceil(thickness / grid.fine_z_mm))
    return (slices, *grid.matrix), (thickness, pixel, pixel), (fine_z, grid.fine_xy, grid.fine_xy)


def make_phantom(
    name: str, index: int, size: str, seed: int, changed: Center | None = None
) -> Phantom:
    """Draw one case of a center: same arguments, same voxels. `changed`: see `plan_case`."""
    plan = plan_case(name, index, size, seed, changed)
    middle = (CENTER_Z_MM, 0.0, 0.0)
    first = [m - (n - 1) / 2 * s for m, n, s in zip(middle, plan.shape, plan.spacing, strict=True)]
    fine_axes = [
        (f + s * ((np.arange(n * k) + 0.5) / k - 0.5)).astype(np.float32)
        for f, s, n, k in zip(first, plan.spacing, plan.shape, plan.fine, strict=True)
    ]
    per_slice = fine_axes[1].size * fine_axes[2].size * plan.fine[0]
    step = max(1, SLAB_VOXELS // per_slice)
    hu = np.empty(plan.shape, np.float32)
    label = np.empty(plan.shape, np.uint8)
    for low in range(0, plan.shape[0], step):
        part = slice(low, min(low + step, plan.shape[0]))
        z = fine_axes[0][part.start * plan.fine[0] : part.stop * plan.fine[0]]
        slab = paint_slab(Axes(z, fine_axes[1], fine_axes[2]), plan.scene, plan.lesion, plan.fields)
        hu[part] = average(fine_hu(slab, plan.look, plan.lesion), plan.fine)
        label[part] = majority(fine_label(slab), plan.fine)
    image = add_scanner(np.random.default_rng(plan.noise_seed), hu, plan.look, plan.spacing[1])
    return Phantom(image, label, plan.spacing, (first[0], first[1], first[2]), plan.facts)
