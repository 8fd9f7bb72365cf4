"""Augmentation of a training sample: one affine map, mirroring, and changes of intensity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin

import torch
import torch.nn.functional as F
from torch import Tensor

from data.case import LABEL_TUMOR
from data.targets.anchors import dilate
from data.targets.sdm import bounding_box
from utils.settings import NOT_NEGATIVE, PROBABILITY, Range, setting

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

CPU_SLAB = 1 << 18  # voxels sampled at once, so that their coordinates stay in a CPU's cache


@dataclass(frozen=True)
class AugmentSettings:
    """What is done to a sample, and how often. The defaults are the paper's (Sec. IV-C).

    The paper names rotation by +-15 degrees, mirroring and noise; how often, and how much noise,
    are the released scripts' numbers. Of the scripts' other steps, gamma is here, off by default;
    an elastic transform (with probability 0.1) is not: in which unit its amplitude U(0, 0.1) is,
    and how smooth its field, is not known. Scale and brightness are this project's own: the
    scripts undo their scaling by a resize to the old size, and never switch their local brightness
    shift on.
    """

    rotation_degrees: float = setting(
        15.0,
        "rotation about each axis, degrees, uniform in +- this",
        "Sec. IV-C",
        allowed=Range(least=0, most=180),
    )
    rotation_probability: float = setting(
        0.5, "how often a sample is rotated", "released scripts", allowed=PROBABILITY
    )
    mirror_probability: float = setting(
        0.5, "how often each axis is mirrored", "released scripts", allowed=PROBABILITY
    )
    noise_std: float = setting(
        0.1,
        "largest deviation of the noise, of the image's [0, 1]: 34 HU",
        "released scripts",
        allowed=NOT_NEGATIVE,
    )
    noise_probability: float = setting(
        0.5, "how often noise is added", "released scripts", allowed=PROBABILITY
    )
    gamma_range: tuple[float, float] = setting(
        (0.7, 1.5),
        "exponents of the image that are drawn from",
        "released scripts",
        allowed=Range(above=0, rising=True),
    )
    gamma_probability: float = setting(
        0.0,
        "how often a gamma is applied; 0.5 in the released scripts",
        "Sec. IV-C names none",
        allowed=PROBABILITY,
    )
    scale_range: tuple[float, float] = setting(
        (0.8, 1.2),
        "factors of all sides that are drawn from, about the crop's center",
        "-",
        allowed=Range(above=0, rising=True),
    )
    scale_probability: float = setting(
        0.0, "how often a sample is scaled", "-", allowed=PROBABILITY
    )
    brightness: float = setting(
        0.3,
        "added around the tumor, of the image's [0, 1], uniform in +- this",
        "-",
        allowed=NOT_NEGATIVE,
    )
    brightness_probability: float = setting(
        0.0, "how often the tumor's surroundings change in brightness", "-", allowed=PROBABILITY
    )


@torch.no_grad()
def augment(
    image: Tensor,
    label: Tensor,
    spacing: Triple,
    settings: AugmentSettings,
    generator: torch.Generator,
    mirror_axes: tuple[int, ...] = (0, 1, 2),
) -> tuple[Tensor, Tensor]:
    """Image in [0, 1] and uint8 label, both (1, 1, z, y, x), augmented alike.

    Rotation about the crop's center is rigid in mm (`spacing`, (z, y, x)); with scale and
    mirroring it is one affine map, so the image is interpolated once (trilinear; zero, the
    window's floor, comes in from outside) and the label once (nearest). Intensity follows:
    brightness around the tumor, gamma, noise; the result is clamped to [0, 1]. All random
    numbers come from the CPU `generator`: the sample is the same on each device. The input is
    not changed. ValueError: shapes that do not fit.
    """
    if image.shape != label.shape or image.dim() != 5 or image.shape[:2] != (1, 1):
        raise ValueError(
            "augment needs image and label (1, 1, z, y, x) of one shape, "
            f"not {tuple(image.shape)} and {tuple(label.shape)}"
        )
    # Drawn for every step, so that a step left out does not change the others.
    chance = torch.rand(8, generator=generator).tolist()
    angles, (scale, gamma, shift, std) = (
        torch.rand(n, generator=generator).tolist() for n in (3, 4)
    )
    mirrored = [axis for axis in mirror_axes if chance[axis] < settings.mirror_probability]
    rotation = torch.eye(3, dtype=torch.float64)
    if chance[3] < settings.rotation_probability:
        z, y, x = (settings.rotation_degrees * (2 * u - 1) for u in angles)
        rotation = rotation_matrix((z, y, x))
    factor = 1.0
    if chance[4] < settings.scale_probability:
        factor = _between(settings.scale_range, scale)
    image, label = warp(image, label, spacing, rotation / factor, mirrored)
    if chance[5] < settings.brightness_probability:
        image = brighten_tumor(image, label, settings.brightness * (2 * shift - 1))
    if chance[6] < settings.gamma_probability:
        image = image.clamp(0, 1) ** _between(settings.gamma_range, gamma)
    if chance[7] < settings.noise_probability:
        noise = torch.randn(image.shape, generator=generator, pin_memory=image.is_cuda)
        noise = noise.to(image.device, non_blocking=True)
        image = image.add(noise, alpha=settings.noise_std * std)
    return image.clamp(0, 1), label


def rotation_matrix(degrees: Triple) -> Tensor:
    """Rotations about the z, then the y, then the x axis: a float64 (3, 3) matrix on (z, y, x)."""
    matrix = torch.eye(3, dtype=torch.float64)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):  # the plane that turns
        c, s = cos(radians(degrees[axis])), sin(radians(degrees[axis]))
        turn = torch.eye(3, dtype=torch.float64)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = turn @ matrix
    return matrix


@torch.no_grad()
def warp(
    image: Tensor,
    label: Tensor,
    spacing: Triple,
    turn: Tensor,
    mirrored: Sequence[int] = (),
    displacement: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Image and label, (1, 1, z, y, x), under a linear map `turn` in mm after mirroring axes.

    `turn`: float64 (3, 3) on (z, y, x), from a place of the result to that of the input;
    `displacement`: see `apply_affine`. Mirroring alone moves voxels and interpolates nothing.
    """
    if displacement is None and torch.equal(turn, torch.eye(3, dtype=torch.float64)):
        axes = [axis + 2 for axis in mirrored]
        return image.flip(axes), label.flip(axes)
    mm = torch.tensor(spacing, dtype=torch.float64)
    matrix = turn * mm / mm[:, None]  # voxels -> mm, turn, mm -> voxels
    matrix[list(mirrored)] *= -1
    return apply_affine(image, label, matrix, displacement)


@torch.no_grad()
def apply_affine(
    image: Tensor, label: Tensor, matrix: Tensor, displacement: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Image (trilinear) and label (nearest), (1, 1, z, y, x), under a linear map about the center.

    `matrix`: float64 (3, 3) on the CPU; the output voxel at the offset v from the center, in
    voxels (z, y, x), is read at the offset `matrix` v of the input, plus `displacement` there, in
    voxels, (3, z, y, x). Zero comes in from outside.
    """
    everything = [slice(0, n) for n in image.shape[2:]]
    mapped_image = _sample(image, matrix, everything, "bilinear", displacement)
    target = everything
    if displacement is None and label.device.type == "cpu":  # a GPU would wait to know the box
        box = bounding_box(label[0, 0])
        if box is None:
            return mapped_image, torch.zeros_like(label)
        target = _image_of_box(box, torch.linalg.inv(matrix), label.shape[2:])
    sampled = _sample(label.float(), matrix, target, "nearest", displacement).to(label.dtype)
    if target == everything:
        return mapped_image, sampled
    mapped_label = torch.zeros_like(label)
    z, y, x = target
    mapped_label[:, :, z, y, x] = sampled
    return mapped_image, mapped_label


@torch.no_grad()
def resize(image: Tensor, label: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Image and label, (1, 1, z, y, x), on a grid of `shape` voxels over the same extent.

    The image is interpolated trilinearly, the label takes the voxel under each new center
    ("nearest-exact": without the half-voxel shift of torch's "nearest"), so both stay aligned.
    Where centers fall between two voxels (all of them, at half the size) they take the lower and
    the higher one in turn, mirrored about the middle: flipping and resizing commute, and over many
    positions an object neither moves nor grows.
    """
    resized = F.interpolate(image, size=shape, mode="trilinear", align_corners=False)
    for axis, new in enumerate(shape, start=2):
        label = _resize_label(label, axis, new)
    return resized, label


def _resize_label(label: Tensor, axis: int, new: int) -> Tensor:
    """The label with `new` voxels along one axis; see `resize`."""
    old, places = label.shape[axis], torch.arange(new)
    centers = (2 * places + 1) * old  # in halves of a new voxel, whole numbers
    above = centers // (2 * new)
    below = (centers - 1) // (2 * new)  # another voxel only where the center falls between two
    mirrored = places.flip(0)
    lower = torch.where(places < mirrored, places % 2 == 0, mirrored % 2 == 1)
    taken = label.index_select(
        axis, torch.where(lower, below, above).to(label.device, non_blocking=True)
    )
    middle = new // 2
    if new % 2 == 1 and below[middle] != above[middle]:
        # No voxel is the right one, seen from both ends: the higher class of the two.
        either = label.narrow(axis, int(below[middle]), 2).amax(axis)
        taken.select(axis, middle).copy_(either)
    return taken


def brighten_tumor(image: Tensor, label: Tensor, shift: float) -> Tensor:
    """Add `shift` within a few voxels of the tumor (its dilation by a box); a copy."""
    around = dilate(label[0, 0] == LABEL_TUMOR)
    return image + shift * around


def _between(limits: tuple[float, float], u: float) -> float:
    """The place `u` of [0, 1] between the limits."""
    return limits[0] + u * (limits[1] - limits[0])


def _image_of_box(box: tuple[slice, ...], matrix: Tensor, shape: torch.Size) -> list[slice]:
    """The smallest box that holds `matrix` times `box`, within an array of `shape`."""
    center = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    low = torch.tensor([s.start - 0.5 for s in box], dtype=torch.float64) - center
    high = torch.tensor([s.stop - 0.5 for s in box], dtype=torch.float64) - center
    middle, half = matrix @ (low + high) / 2 + center, matrix.abs() @ (high - low) / 2
    starts, stops = (middle - half).floor().tolist(), (middle + half).ceil().tolist()
    return [
        slice(min(max(int(a), 0), n), max(min(int(b) + 1, n), 0))
        for a, b, n in zip(starts, stops, shape, strict=True)
    ]


def _sample(
    volume: Tensor, matrix: Tensor, box: list[slice], mode: str, displacement: Tensor | None = None
) -> Tensor:
    """The part `box` of the map of `volume`, float (1, 1, z, y, x), read at `matrix` v.

    `displacement`: (3, z, y, x), of the whole volume, is added there.
    """
    shape = volume.shape[2:]
    # grid_sample counts in half sides, x first: offset v of n voxels is 2 v / n.
    steps = (2 * matrix / torch.tensor(shape, dtype=torch.float64)[:, None]).flip(0)
    places = [
        ((torch.arange(s.start, s.stop) - (n - 1) / 2)[:, None] * steps[:, axis]).float()
        for axis, (s, n) in enumerate(zip(box, shape, strict=True))
    ]  # (n, 3) each: what the place along one axis adds to the coordinates
    on_device = torch.cat(places).to(volume.device, non_blocking=True)
    z, y, x = on_device.split([len(along) for along in places])
    plane = (y[:, None] + x).flatten(1)  # (y, x 3)
    slices = z.repeat(1, len(x))  # (z, x 3)
    sampled = volume.new_empty(1, 1, len(z), len(y), len(x))
    if sampled.numel() == 0:
        return sampled
    on_cpu = volume.device.type == "cpu"
    slab = max(CPU_SLAB // (len(y) * len(x)), 1) if on_cpu else len(z)
    for start in range(0, len(z), slab):
        grid = (slices[start : start + slab, None] + plane).view(1, -1, len(y), len(x), 3)
        if displacement is not None:
            first = box[0].start + start
            part = displacement[:, first : first + grid.shape[1], box[1], box[2]]
            halves = torch.tensor(shape).to(part.device, non_blocking=True)[:, None, None, None] / 2
            grid += (part / halves).flip(0).permute(1, 2, 3, 0)
        sampled[:, :, start : start + slab] = F.grid_sample(
            volume, grid, mode=mode, padding_mode="zeros", align_corners=False
        )
    return sampled
