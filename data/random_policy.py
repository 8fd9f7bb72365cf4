"""Hard augmentation by a totally random policy: DAM's auxiliary view (Zhang and Ma, 2022).

Ranges are AutoAugment's (Cubuk et al., 2019), of which DAM's operations come, where it has the
operation; of color, which CT does not have, gamma, blur and noise take the place. Geometric
operations stay within slices, as in 2D, and are rigid in mm; images are in [0, 1] before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augment import Triple, apply_affine, rotation_matrix

LEVELS = 9  # strengths 1 to 9, of 10
# At a strength of 10, which none reaches:
ROTATION_DEGREES = 30.0
SHEAR = 0.3
TRANSLATION = 0.45  # of a side
ENHANCEMENT = 1.0  # factors of brightness and contrast, 1 plus or minus this
NOISE_STD = 0.2  # twice the base recipe's largest
BITS = (7, 4)  # of a posterized image, at strength 1 and 9
GRAY_LEVELS = 256  # bins of equalization


@dataclass(frozen=True)
class Draw:
    """One operation as it was drawn. `strength`: 0.1 to 0.9; `sign`: its direction, 1 or -1."""

    name: str
    strength: float
    probability: float
    sign: int
    applied: bool


@torch.no_grad()
def random_policy(
    image: Tensor, label: Tensor, spacing: Triple, generator: torch.Generator, operations: int = 2
) -> tuple[Tensor, Tensor]:
    """Image in [0, 1] and uint8 label, both (1, 1, z, y, x), after that many random operations.

    The label follows the geometric ones. All random numbers come from the CPU `generator`; the
    input is not changed. Without operations it is returned as it is.
    """
    for draw in draw_operations(generator, operations):
        if not draw.applied:
            continue
        if draw.name in GEOMETRIC:
            image, label = GEOMETRIC[draw.name](image, label, spacing, draw)
        else:
            image = INTENSITY[draw.name](image, draw, generator)
        image = image.clamp(0, 1)
    return image, label


def draw_operations(generator: torch.Generator, count: int) -> list[Draw]:
    """Operations, each of all with equal chance, with random strengths, probabilities and signs."""
    names = (*GEOMETRIC, *INTENSITY)

    def integer(end: int) -> int:
        return int(torch.randint(end, (), generator=generator))

    draws = []
    for _ in range(count):
        name, level, tenths = names[integer(len(names))], 1 + integer(LEVELS), 1 + integer(10)
        sign, chance = 1 - 2 * integer(2), float(torch.rand((), generator=generator))
        draws.append(Draw(name, level / 10, tenths / 10, sign, chance < tenths / 10))
    return draws


# geometric operations


def _shear(axis: int) -> Geometric:
    """Along y (axis 1) or x (axis 2), the more the further along the other."""

    def apply(image: Tensor, label: Tensor, spacing: Triple, draw: Draw) -> tuple[Tensor, Tensor]:
        matrix = torch.eye(3, dtype=torch.float64)
        other = 3 - axis
        matrix[axis, other] = draw.sign * SHEAR * draw.strength * spacing[other] / spacing[axis]
        return apply_affine(image, label, matrix)

    return apply


def _translate(axis: int) -> Geometric:
    """Along y (axis 1) or x (axis 2), by whole voxels; zero comes in from outside."""

    def apply(image: Tensor, label: Tensor, spacing: Triple, draw: Draw) -> tuple[Tensor, Tensor]:
        step = round(draw.sign * TRANSLATION * draw.strength * image.shape[axis + 2])
        return _shift(image, axis + 2, step), _shift(label, axis + 2, step)

    return apply


def _shift(volume: Tensor, axis: int, step: int) -> Tensor:
    kept = volume.shape[axis] - abs(step)
    shifted = torch.zeros_like(volume)
    shifted.narrow(axis, max(step, 0), kept).copy_(volume.narrow(axis, max(-step, 0), kept))
    return shifted


def _rotate(image: Tensor, label: Tensor, spacing: Triple, draw: Draw) -> tuple[Tensor, Tensor]:
    """About the z axis."""
    turn = rotation_matrix((draw.sign * ROTATION_DEGREES * draw.strength, 0, 0))
    mm = torch.tensor(spacing, dtype=torch.float64)
    return apply_affine(image, label, turn * mm / mm[:, None])


# operations on intensity


def _brightness(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    return image * (1 + draw.sign * ENHANCEMENT * draw.strength)


def _contrast(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    return torch.lerp(image.mean(), image, 1 + draw.sign * ENHANCEMENT * draw.strength)


def _gamma(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    return image ** (2 ** (draw.sign * draw.strength))


def _sharpen(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    return torch.lerp(image, _smooth(image), -draw.strength)


def _blur(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    return torch.lerp(image, _smooth(image), draw.strength)


def _smooth(image: Tensor) -> Tensor:
    """Mean of 3 x 3 x 3 voxels, of those that are inside."""
    return F.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)


def _noise(image: Tensor, draw: Draw, generator: torch.Generator) -> Tensor:
    noise = torch.randn(image.shape, generator=generator, pin_memory=image.is_cuda)
    noise = noise.to(image.device, non_blocking=True)
    return image.add(noise, alpha=NOISE_STD * draw.strength)


def _posterize(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    most, least = BITS
    bits = most - round((most - least) * (10 * draw.strength - 1) / (LEVELS - 1))
    return (image * 2**bits).floor().clamp(max=2**bits - 1) / (2**bits - 1)


def _solarize(image: Tensor, draw: Draw, _: torch.Generator) -> Tensor:
    return torch.where(image >= 1 - draw.strength, 1 - image, image)


def _invert(image: Tensor, _: Draw, __: torch.Generator) -> Tensor:
    return 1 - image


def _equalize(image: Tensor, _: Draw, __: torch.Generator) -> Tensor:
    """Histogram equalization; a constant image stays as it is."""
    bins = (image * (GRAY_LEVELS - 1)).round().long()
    # Not by bincount, nor by an index that is a number: both would make a GPU wait.
    counts = bins.new_zeros(GRAY_LEVELS)
    below = counts.scatter_add_(0, bins.flatten(), torch.ones_like(bins).flatten()).cumsum(0)
    lowest = below.index_select(0, bins.min()[None])
    span = below[-1] - lowest
    equalized = ((below - lowest) / span.clamp(min=1))[bins]
    return torch.where(span > 0, equalized, image)


def _autocontrast(image: Tensor, _: Draw, __: torch.Generator) -> Tensor:
    """Minimum to 0 and maximum to 1; a constant image stays as it is."""
    low, high = torch.aminmax(image)
    return torch.where(high > low, (image - low) / (high - low).clamp(min=1e-6), image)


Geometric = Callable[[Tensor, Tensor, Triple, Draw], tuple[Tensor, Tensor]]
Intensity = Callable[[Tensor, Draw, torch.Generator], Tensor]
GEOMETRIC: Mapping[str, Geometric] = {
    "shear_y": _shear(1),
    "shear_x": _shear(2),
    "translate_y": _translate(1),
    "translate_x": _translate(2),
    "rotate": _rotate,
}
INTENSITY: Mapping[str, Intensity] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "gamma": _gamma,
    "sharpen": _sharpen,
    "blur": _blur,
    "noise": _noise,
    "posterize": _posterize,
    "solarize": _solarize,
    "invert": _invert,
    "equalize": _equalize,
    "autocontrast": _autocontrast,
}
