"""Eq. 1: views of an image with the same anatomy and another texture, by random convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from data.case import LABEL_TUMOR
from utils.settings import Range, setting

MODES = ("printed", "rescaled", "as_run")
MIN_SPAN = 1e-6  # a view whose values differ by less is constant: rounding is not rescaled
LARGEST_SHIFT_KERNEL = 3  # larger ones cost less through the Fourier transform (measured)
FOURIER_REACH = 3  # smaller kernels are padded to the largest of Eq. 1: one transform serves all
CPU_SLAB = 1 << 18  # voxels that a CPU's cache holds, several times over


@dataclass(frozen=True)
class ViewSettings:
    """How F of Eq. 1 is drawn, and what happens to a view; the defaults are the paper's."""

    mode: str = setting(
        "printed",
        "Eq. 1 as printed; or rescaled, so that the view fills [0, 1]; or as the released scripts "
        "run it: F has a bias, and the view is clamped to [0, 1] before it is rescaled, which "
        "changes the contrast between tissues",
        "Eq. 1; released scripts",
        MODES,
    )
    kernel_sizes: tuple[int, ...] = setting(
        (1, 3, 5, 7),
        "sides of F that are drawn from, voxels, odd; 3 5 7 in the released scripts",
        "Eq. 1's ref. [38] (RandConv)",
    )
    mix_range: tuple[float, float] = setting(
        (0.0, 1.0),
        "a of Eq. 1 is uniform between these; 1 1 keeps nothing of the image",
        "Eq. 1",
        allowed=Range(least=0, most=1, rising=True),
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a setting that means nothing."""
        if self.mode not in MODES:
            raise ValueError(f"--views.mode {self.mode}: choose from {', '.join(MODES)}")
        if not self.kernel_sizes or any(k < 1 or k % 2 == 0 for k in self.kernel_sizes):
            sizes = " ".join(map(str, self.kernel_sizes))
            raise ValueError(f"--views.kernel-sizes {sizes}: odd and positive numbers")


@torch.no_grad()
def random_views(
    image: Tensor,
    generator: torch.Generator,
    settings: ViewSettings = ViewSettings(),
    count: int = 2,
) -> list[Tensor]:
    """Eq. 1: `count` views a F(x) + (1 - a) x, a ~ U(`mix_range`), F a random convolution.

    `image`: (b, 1, z, y, x) in [0, 1]; each view of each sample has an F and an a of its own, drawn
    from the CPU `generator`; F pads with zeros, its weights are N(0, 1 / fan_in), in RandConv as in
    the released scripts. Each view is float32 of the image's shape, without a gradient. "printed":
    it is not clamped, its values may leave [0, 1]. "rescaled": its minimum becomes 0 and its
    maximum 1; a constant one stays constant. "as_run": F has a bias U(-1, 1) / sqrt(fan_in), and
    the view is clamped to [0, 1], then rescaled. Raises ValueError for another shape.
    """
    if image.dim() != 5 or image.shape[1] != 1:
        raise ValueError(f"image must be (b, 1, z, y, x), not {tuple(image.shape)}")
    volumes = [Convolver(sample[0].float()) for sample in image]  # transformed once for all views
    return [
        torch.stack([_view(volume, generator, settings) for volume in volumes])[:, None]
        for _ in range(count)
    ]


@torch.no_grad()
def label_wise_view(
    image: Tensor, label: Tensor, generator: torch.Generator, settings: ViewSettings
) -> Tensor:
    """A view with another F and a of Eq. 1 inside each label; nothing else of a region is changed.

    `image` and uint8 `label`: (1, 1, z, y, x). Three views are drawn whatever labels there are, and
    each voxel is that of its label's view: F sees the image across the border of its region.
    """
    views = random_views(image, generator, settings, count=LABEL_TUMOR + 1)
    mixed = views[0]
    for value in range(1, len(views)):
        mixed = torch.where(label == value, views[value], mixed)
    return mixed


def _view(volume: Convolver, generator: torch.Generator, settings: ViewSettings) -> Tensor:
    """Eq. 1 of one volume: (z, y, x)."""
    choice = int(torch.randint(len(settings.kernel_sizes), (), generator=generator))
    size = settings.kernel_sizes[choice]
    fan_in = size**3
    weight = torch.randn(size, size, size, generator=generator) * (1 / fan_in) ** 0.5
    # Drawn in each mode, so that all see the same F and a.
    bias, place = torch.rand(2, generator=generator).tolist()
    least, most = settings.mix_range
    a = least + place * (most - least)
    view = volume.convolve(weight)
    if settings.mode == "as_run":
        view += (2 * bias - 1) / fan_in**0.5
        return _rescale(torch.lerp(volume.volume, view, a).clamp_(0, 1))
    view = torch.lerp(volume.volume, view, a)
    return _rescale(view) if settings.mode == "rescaled" else view


def _rescale(view: Tensor) -> Tensor:
    """Minimum to 0 and maximum to 1; a constant view stays as it is."""
    low, high = torch.aminmax(view)
    span = high - low
    is_constant = span <= MIN_SPAN
    return view.sub_(low.masked_fill_(is_constant, 0.0)).div_(span.masked_fill_(is_constant, 1.0))


class Convolver:
    """Convolutions of one volume, float32 (z, y, x), as `F.conv3d` with zero padding "same".

    With one channel a convolution is far from what the libraries' kernels are made for. A small
    kernel is on a CPU a sum of shifted copies; others are a product of Fourier transforms, where
    the volume's own is kept for the next kernel. Float32 throughout, autocast and TF32 do not
    touch it.
    """

    def __init__(self, volume: Tensor) -> None:
        self.volume = volume
        self._spectra: dict[int, Tensor] = {}  # by reach of the kernel

    def convolve(self, weight: Tensor) -> Tensor:
        """The volume convolved (in the networks' sense) with `weight`, odd (k, k, k), on the CPU.

        Within 1e-6 of the sum of the weights' magnitudes of the exact result, for x in [0, 1].
        """
        size = weight.shape[0]
        if size == 1:
            return self.volume * weight.item()
        if size <= LARGEST_SHIFT_KERNEL and self.volume.device.type == "cpu":
            return self._sum_of_shifts(weight)
        return self._fourier(weight)

    def _sum_of_shifts(self, weight: Tensor) -> Tensor:
        """Each shift is one offset into the flattened, padded volume; a slab stays in the cache."""
        size = weight.shape[0]
        padded = F.pad(self.volume, [size // 2] * 6)
        height, width = padded.shape[1:]
        plane = height * width
        result = torch.zeros(self.volume.shape[0], height, width)
        flat = padded.view(-1)
        taps = list(product(range(size), repeat=3))
        slab = max(CPU_SLAB // plane, 1)
        for z in range(0, len(result), slab):
            part = result[z : z + slab].view(-1)
            for (dz, dy, dx), value in zip(taps, weight.flatten().tolist(), strict=True):
                start = ((z + dz) * height + dy) * width + dx
                shifted = flat[start : start + len(part)]
                part[: len(shifted)].add_(shifted, alpha=value)
        return result[:, : self.volume.shape[1], : self.volume.shape[2]]

    def _fourier(self, weight: Tensor) -> Tensor:
        """Product of two transforms; these are circular, so zeros in front serve both ends."""
        reach, shape = _fourier_sizes(self.volume.shape, weight.shape[0])
        if reach not in self._spectra:
            padded = F.pad(self.volume, (reach, 0) * 3)
            self._spectra[reach] = torch.fft.rfftn(padded, s=shape)
        transfer = _transfer(weight.to(self.volume.device, non_blocking=True), reach, shape)
        z, y, x = self.volume.shape
        return torch.fft.irfftn(self._spectra[reach] * transfer.conj(), s=shape)[:z, :y, :x]


def fourier_convolve(channels: Tensor, weight: Tensor) -> Tensor:
    """`F.conv3d` with zero padding "same" of (i, z, y, x) by (o, i, k, k, k), in float32: (o, ...).

    A sum over products of Fourier transforms, those of all channels and kernels made together.
    """
    z, y, x = channels.shape[1:]
    reach, shape = _fourier_sizes((z, y, x), weight.shape[-1])
    behind = [size - n - reach for n, size in zip((x, y, z), shape[::-1], strict=True)]
    pads = [pad for end in behind for pad in (reach, end)]
    spectra = torch.fft.rfftn(F.pad(channels, pads), dim=(1, 2, 3))
    products = (spectra * _transfer(weight, reach, shape).conj()).sum(1)
    return torch.fft.irfftn(products, s=shape, dim=(1, 2, 3))[:, :z, :y, :x]


def _fourier_sizes(sides: Sequence[int], kernel: int) -> tuple[int, list[int]]:
    """Zeros in front of each axis, and the lengths of the transforms of a volume."""
    reach = max(kernel // 2, FOURIER_REACH)
    return reach, [_fast_size(n + reach) for n in sides]


def _transfer(weight: Tensor, reach: int, shape: Sequence[int]) -> Tensor:
    """The transform of kernels (..., k, k, k), each axis only once it has to be long."""
    transfer = F.pad(weight, [reach - weight.shape[-1] // 2] * 6)
    transfer = torch.fft.rfft(transfer, n=shape[2], dim=-1)
    for axis in (-2, -3):
        transfer = torch.fft.fft(transfer, n=shape[axis], dim=axis)
    return transfer


def _fast_size(length: int) -> int:
    """The next even length without a prime factor above 5."""
    size = length + length % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
