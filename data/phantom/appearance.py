"""What a scanner and a contrast phase make of a body: HU, partial volume, kernel, noise.

HU are typical values of radiology teaching, for 120 kV: water 0, fat about -100, lung -850,
unenhanced soft tissue 40-60, gas -1000. For the enhanced organs they follow the usual time course
of a biphasic pancreas protocol: late arterial (about 35 s: aorta above 300, portal vein little),
pancreatic (about 45 s: the gland at its brightest, 100-130), portal venous (about 70 s: liver at
its brightest, about 110, veins equal to the aorta). They are no measurement of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.phantom.anatomy import Tissue
from data.phantom.lesion import KINDS, Lesion
from data.phantom.paint import KEPT, Slab

HU = {
    Tissue.AIR: -1000, Tissue.SKIN: 20, Tissue.FAT: -105, Tissue.VISCERAL_FAT: -98,
    Tissue.MUSCLE: 58, Tissue.LUNG: -850, Tissue.CORTICAL_BONE: 520, Tissue.MARROW: 210,
    Tissue.DISC: 85, Tissue.CANAL: 35, Tissue.CARTILAGE: 110, Tissue.FLUID: 12, Tissue.CHYME: 38,
    Tissue.STOOL: 0, Tissue.ORAL_CONTRAST: 260, Tissue.GAS: -990, Tissue.BILE: 8, Tissue.CYST: 8,
    Tissue.DUCT: 14, Tissue.STENT: 900, Tissue.TABLE: -200,
}  # fmt: skip
ENHANCED = (
    Tissue.ARTERY, Tissue.PORTAL_VEIN, Tissue.CAVA, Tissue.HEPATIC_VEIN, Tissue.HEART, Tissue.LIVER,
    Tissue.SPLEEN, Tissue.RENAL_CORTEX, Tissue.RENAL_MEDULLA, Tissue.PANCREAS, Tissue.BOWEL_WALL,
    Tissue.STOMACH_WALL, Tissue.ADRENAL,
)  # fmt: skip
PHASES = {  # HU of ENHANCED, in its order
    "arterial": (310, 105, 85, 70, 240, 68, 115, 185, 70, 98, 82, 78, 75),
    "pancreatic": (240, 145, 110, 90, 190, 84, 125, 190, 100, 114, 92, 86, 85),
    "portal": (155, 168, 135, 160, 150, 110, 122, 180, 150, 98, 88, 84, 80),
}
TEXTURE_HU = {Tissue.PANCREAS: 9, Tissue.VISCERAL_FAT: 7, Tissue.FAT: 4, Tissue.LIVER: 3,
              Tissue.SPLEEN: 3, Tissue.MUSCLE: 7, Tissue.CHYME: 9, Tissue.STOOL: 50,
              Tissue.MARROW: 30, Tissue.LUNG: 35}  # fmt: skip
FIELD_OF_VIEW_HU = -1024
CHUNK_SLICES = 32  # scanned at a time: bounds the memory of a full-size case


@dataclass(frozen=True)
class Scanner:
    """A center's protocol.

    `phases`: odds per contrast phase. `noise_hu`: standard deviation range. `kernel_mm`: blur of
    the reconstruction kernel (standard deviation, in-plane); `sharpen`: its edge enhancement (0:
    none). `grain_mm`: correlation length of the noise. `scale`, `offset_hu`: calibration drift.
    """

    phases: tuple[tuple[str, float], ...]
    noise_hu: tuple[float, float]
    kernel_mm: float
    sharpen: float
    grain_mm: float
    scale: float = 1.0
    offset_hu: float = 0.0


@dataclass(frozen=True)
class Look:
    """One scan's drawn numbers: HU and texture per tissue (34,), noise level, scanner."""

    hu: np.ndarray
    texture: np.ndarray
    noise_hu: float
    phase: str
    scanner: Scanner


def draw_look(rng: np.random.Generator, scanner: Scanner) -> Look:
    """The HU table of one scan: phase, its timing, and what differs from patient to patient."""
    names, odds = zip(*scanner.phases, strict=True)
    phase = str(rng.choice(names, p=np.array(odds) / sum(odds)))
    hu, texture = np.zeros(len(Tissue), np.float32), np.zeros(len(Tissue), np.float32)
    for tissue, value in HU.items():
        hu[tissue] = value
    timing = rng.uniform(0.9, 1.1)  # more or less iodine per kilogram: all enhancement alike
    for tissue, value in zip(ENHANCED, PHASES[phase], strict=True):
        hu[tissue] = 40 + (value - 40) * timing
    jitter = rng.normal(0, 4.0, len(Tissue)).astype(np.float32)
    jitter[[Tissue.AIR, Tissue.GAS]] = 0
    for tissue, value in TEXTURE_HU.items():
        texture[tissue] = value
    fatty = rng.uniform(0, 14)  # fatty infiltration lowers and coarsens the gland
    hu[Tissue.PANCREAS] -= fatty
    texture[Tissue.PANCREAS] += fatty / 2
    return Look(hu + jitter, texture, rng.uniform(*scanner.noise_hu), phase, scanner)


def fine_hu(slab: Slab, look: Look, lesion: Lesion | None) -> np.ndarray:
    """HU on the fine grid, float32, without noise; the lesion mixes into its surroundings."""
    hu = look.hu[slab.tissue]
    hu += look.texture[slab.tissue] * slab.lobule
    if lesion is None or slab.lesion is None or not slab.lesion[1].size:
        return hu
    box, distance = slab.lesion
    kind = KINDS[lesion.kind]
    level = lesion.level_hu + (0 if kind.contrast_hu is None else look.hu[Tissue.PANCREAS])
    weight = np.clip(0.5 - distance / np.float32(2 * kind.edge_mm), 0, 1)
    weight[KEPT[slab.tissue[box]]] = 0
    inside = np.float32(level) + np.float32(kind.texture_hu) * slab.lobule[box]
    hu[box] += weight * (inside - hu[box])
    return hu


def average(volume: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Mean over blocks of `factors` (z, y, x) voxels: the partial volume of slice and pixel."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            parts = [
                volume[(slice(None),) * axis + (slice(i, None, factor),)] for i in range(factor)
            ]
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
            volume = total / np.float32(factor)
    return volume


def majority(label: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """The most frequent label of each block, uint8; of equals the smaller value."""
    found = np.nonzero(label.any(axis=(1, 2)))[0]
    coarse = np.zeros([n // f for n, f in zip(label.shape, factors, strict=True)], np.uint8)
    if not len(found):
        return coarse
    rows = np.nonzero(label.any(axis=(0, 2)))[0]
    columns = np.nonzero(label.any(axis=(0, 1)))[0]
    out = tuple(
        slice(int(n[0]) // f, int(n[-1]) // f + 1)
        for n, f in zip((found, rows, columns), factors, strict=True)
    )
    fine = label[tuple(slice(s.start * f, s.stop * f) for s, f in zip(out, factors, strict=True))]
    shares = [average((fine == value).astype(np.float32), factors) for value in (0, 1, 2)]
    coarse[out] = np.argmax(shares, axis=0)
    return coarse


def add_scanner(
    rng: np.random.Generator, hu: np.ndarray, look: Look, pixel_mm: float
) -> np.ndarray:
    """Kernel, calibration and correlated noise on slices (z, y, x): int16 HU.

    The noise of filtered backprojection rises with frequency and is cut off by the kernel: a ramp
    times a Gaussian, drawn in the frequency domain per slice, neighbors along z weakly correlated.
    """
    from scipy import ndimage

    scanner = look.scanner
    blur = scanner.kernel_mm / pixel_mm
    gain = _noise_gain(hu.shape[1:], scanner.grain_mm / pixel_mm)
    image = np.empty(hu.shape, np.int16)
    before = _grain(rng, 1, gain, hu.shape[2])
    for low in range(0, len(hu), CHUNK_SLICES):
        part = ndimage.gaussian_filter(hu[low : low + CHUNK_SLICES], (0, blur, blur), truncate=3)
        if scanner.sharpen:
            soft = ndimage.gaussian_filter(part, (0, 1, 1), truncate=3)
            part += np.float32(scanner.sharpen) * (part - soft)
        part *= np.float32(scanner.scale)
        part += np.float32(scanner.offset_hu)
        grain = _grain(rng, len(part), gain, hu.shape[2])
        below = np.concatenate([before, grain[:-1]])
        before = grain[-1:]
        noise = (grain + np.float32(0.3) * below) / np.float32(np.sqrt(1.09))
        part += np.float32(look.noise_hu) * noise
        np.clip(np.rint(part), FIELD_OF_VIEW_HU, 3071, out=part)
        image[low : low + CHUNK_SLICES] = part
    return image


def _noise_gain(shape: tuple[int, ...], grain: float) -> np.ndarray:
    """Gain per spatial frequency of a slice (y, x // 2 + 1) that keeps white noise's variance."""
    from scipy import fft

    f = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None])
    gain = ((0.05 + f) * np.exp(-2 * (np.pi * grain * f) ** 2)).astype(np.float32)
    weights = np.full(gain.shape, 2.0)
    weights[:, 0] = 1
    if shape[1] % 2 == 0:
        weights[:, -1] = 1
    gain /= np.float32(np.sqrt((weights * gain**2).sum() / (shape[0] * shape[1])))
    return gain


def _grain(rng: np.random.Generator, slices: int, gain: np.ndarray, width: int) -> np.ndarray:
    from scipy import fft

    white = rng.standard_normal((slices, len(gain), width), dtype=np.float32)
    return fft.irfft2(fft.rfft2(white) * gain, s=white.shape[1:])
