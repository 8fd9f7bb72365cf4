"""BigAug's stack of nine random transforms: quality, appearance and shape of an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, exp, log, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augment import Triple, rotation_matrix, warp
from utils.settings import NOT_NEGATIVE, PROBABILITY, Range, setting

TRUNCATE = 4.0  # deviations at which a Gaussian ends, as in scipy
CELLS_PER_SIGMA = 2  # of the grid on which a deformation is drawn
MAGNITUDES = Range(least=0, rising=True)


@dataclass(frozen=True)
class StackSettings:
    """The transforms' ranges: those of an unofficial version of BigAug, all but the scale's."""

    probability: float = setting(0.5, "of each transform", "BigAug", allowed=PROBABILITY)
    blur_sigma: tuple[float, float] = setting(
        (0.25, 1.5), "deviation of the blur, mm", "BigAug", allowed=MAGNITUDES
    )
    sharpen_sigma: tuple[float, float] = setting(
        (0.25, 1.5), "deviation of both blurs of sharpening, mm", "BigAug", allowed=MAGNITUDES
    )
    sharpen_alpha: tuple[float, float] = setting(
        (10.0, 30.0), "how much of their difference is added", "BigAug", allowed=MAGNITUDES
    )
    noise_std: tuple[float, float] = setting(
        (0.1, 1.0), "deviation of the noise, of the image's own", "BigAug", allowed=MAGNITUDES
    )
    brightness: float = setting(
        0.1, "shift of the image's [0, 1], uniform in +- this", "BigAug", allowed=NOT_NEGATIVE
    )
    gamma_range: tuple[float, float] = setting(
        (0.5, 4.5),
        "exponents of the image, their logarithm uniform",
        "BigAug",
        allowed=Range(above=0, rising=True),
    )
    perturbation: float = setting(
        0.1,
        "intensities times 1 +- this, and plus +- this",
        "BigAug",
        allowed=Range(least=0, below=1),
    )
    rotation_degrees: float = setting(
        20.0, "about each axis, uniform in +- this", "BigAug", allowed=Range(least=0, most=180)
    )
    scale_range: tuple[float, float] = setting(
        (0.8, 1.25),
        "factors of all sides; BigAug's 0.4 1.6 loses small tumors",
        "-",
        allowed=Range(above=0, rising=True),
    )
    deformation_sigma: tuple[float, float] = setting(
        (10.0, 13.0),
        "smoothness of the deformation, mm",
        "BigAug",
        allowed=Range(above=0, rising=True),
    )
    deformation_factor: tuple[float, float] = setting(
        (0.0, 1000.0),
        "of uniform noise in +-1 mm, on a grid of 1 mm, that is smoothed: 2.7 mm at most",
        "BigAug",
        allowed=MAGNITUDES,
    )


def draw_stack(settings: StackSettings, generator: torch.Generator) -> dict[str, tuple[float, ...]]:
    """The transforms of one image, in their order, with their magnitudes.

    Drawn for each, so that one left out does not change the others.
    """
    s = settings
    low, high = log(s.gamma_range[0]), log(s.gamma_range[1])
    ranges: Mapping[str, tuple[tuple[float, float], ...]] = {
        "blur": (s.blur_sigma,),
        "sharpen": (s.sharpen_sigma, s.sharpen_sigma, s.sharpen_alpha),
        "noise": (s.noise_std,),
        "brightness": ((-s.brightness, s.brightness),),
        "gamma": ((low, high),),
        "perturbation": ((-s.perturbation, s.perturbation),) * 2,
        "rotation": ((-s.rotation_degrees, s.rotation_degrees),) * 3,
        "scale": (s.scale_range,),
        "deformation": (s.deformation_sigma, s.deformation_factor),
    }
    chances = torch.rand(len(ranges), generator=generator).tolist()
    drawn: dict[str, tuple[float, ...]] = {}
    for (name, limits), chance in zip(ranges.items(), chances, strict=True):
        places = torch.rand(len(limits), generator=generator).tolist()
        if chance < s.probability:
            drawn[name] = tuple(a + u * (b - a) for (a, b), u in zip(limits, places, strict=True))
    return drawn


@torch.no_grad()
def apply_stack(
    image: Tensor,
    label: Tensor,
    spacing: Triple,
    settings: StackSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Image in [0, 1] and uint8 label, (1, 1, z, y, x), after the transforms that are drawn.

    Rotation, scale and deformation are one map, read once: the image trilinear, the label nearest,
    zero from outside. `spacing`: mm, (z, y, x). The image is clamped to [0, 1] at the end. All
    random numbers come from the CPU `generator`; the input is not changed.
    """
    drawn = draw_stack(settings, generator)
    for change in drawn.items():
        image = change_intensity(image, change, spacing, generator)
    if drawn.keys() & {"rotation", "scale", "deformation"}:
        z, y, x = drawn.get("rotation", (0.0, 0.0, 0.0))
        (factor,) = drawn.get("scale", (1.0,))
        displacement = None
        if "deformation" in drawn:
            sigma, strength = drawn["deformation"]
            displacement = deformation(image, spacing, sigma, generator) * strength
        turn = rotation_matrix((z, y, x)) / factor
        image, label = warp(image, label, spacing, turn, displacement=displacement)
    return image.clamp(0, 1), label


def change_intensity(
    image: Tensor,
    change: tuple[str, tuple[float, ...]],
    spacing: Triple,
    generator: torch.Generator,
) -> Tensor:
    """The image after one transform of `draw_stack`; one of shape leaves it as it is."""
    match change:
        case "blur", (sigma,):
            return gaussian_blur(image, sigma, spacing)
        case "sharpen", (first, second, alpha):
            blurred = gaussian_blur(image, first, spacing)
            return blurred + alpha * (blurred - gaussian_blur(blurred, second, spacing))
        case "noise", (std,):
            noise = torch.randn(image.shape, generator=generator, pin_memory=image.is_cuda)
            noise = noise.to(image.device, non_blocking=True)
            return image + noise * (std * image.std())
        case "brightness", (shift,):
            return image + shift
        case "gamma", (exponent,):
            return image.clamp(0, 1) ** exp(exponent)
        case "perturbation", (gain, shift):
            return image * (1 + gain) + shift
    return image


def gaussian_blur(volume: Tensor, sigma: float, spacing: Triple) -> Tensor:
    """`volume` (..., z, y, x), float32, blurred by `sigma` mm; its border is repeated.

    As scipy's `gaussian_filter(mode="nearest")`; a sum of shifted copies along each axis.
    """
    for axis, length in enumerate(spacing, start=volume.dim() - 3):
        reach = ceil(TRUNCATE * sigma / length)
        if reach == 0:
            continue
        taps = gaussian_taps(sigma / length, reach)
        size = volume.shape[axis]
        inside = torch.arange(-reach, size + reach, device=volume.device).clamp(0, size - 1)
        padded = volume.index_select(axis, inside)
        volume = torch.zeros_like(volume)
        for start, tap in enumerate(taps.tolist()):
            volume.add_(padded.narrow(axis, start, size), alpha=tap)
    return volume


def gaussian_taps(sigma: float, reach: int) -> Tensor:
    """A Gaussian at -reach, ..., reach, of sum 1; `sigma` above 0, in the same unit."""
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    return taps / taps.sum()


def deformation(
    volume: Tensor, spacing: Triple, sigma: float, generator: torch.Generator
) -> Tensor:
    """A smooth random displacement, in voxels, (3, z, y, x), of a volume (..., z, y, x).

    In mm it has, at each place and along each axis, about the deviation of noise that is uniform
    in +-1 mm in each voxel of 1 mm and was smoothed by a Gaussian of `sigma` mm. It is drawn on a
    grid of half a `sigma` or less, smoothed there, and interpolated.
    """
    shape, device = volume.shape[-3:], volume.device
    lengths = [max(n - 1, 1) * mm for n, mm in zip(shape, spacing, strict=True)]
    cells = [ceil(CELLS_PER_SIGMA * length / sigma) for length in lengths]
    cz, cy, cx = (length / n for length, n in zip(lengths, cells, strict=True))  # mm of a cell
    reach = [ceil(TRUNCATE * sigma / cell) for cell in (cz, cy, cx)]
    drawn = [n + 1 + 2 * r for n, r in zip(cells, reach, strict=True)]
    noise = torch.randn(3, *drawn, generator=generator).to(device, non_blocking=True)
    smooth = gaussian_blur(noise, sigma, (cz, cy, cx))
    z, y, x = (slice(r, r + n + 1) for n, r in zip(cells, reach, strict=True))  # not the border
    field = F.interpolate(
        smooth[None, :, z, y, x], size=tuple(shape), mode="trilinear", align_corners=True
    )[0]
    gain = 1.0  # of the deviation, by the smoothing
    for cell, r in zip((cz, cy, cx), reach, strict=True):
        gain *= float(gaussian_taps(sigma / cell, r).square().sum()) ** 0.5
    mm = sqrt(1 / 3) / ((4 * pi) ** 0.75 * sigma**1.5)
    lengths_mm = torch.tensor(spacing).to(device, non_blocking=True)
    return field * (mm / gain / lengths_mm[:, None, None, None])
