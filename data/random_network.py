"""GIN: views of an image through a small network with random weights, never trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from data.views import Convolver, fourier_convolve
from utils.settings import AT_LEAST_1, Range, setting

MIN_NORM = 1e-12  # a volume of a smaller norm is zero: it is not rescaled


@dataclass(frozen=True)
class RandomNetworkSettings:
    """The network that is drawn, and how much of its output a view has."""

    layers: int = setting(4, "convolutions, one after the other", "its paper", allowed=AT_LEAST_1)
    channels: int = setting(2, "channels between them", "its paper", allowed=AT_LEAST_1)
    kernel_sizes: tuple[int, ...] = setting(
        (1, 3), "sides that each convolution draws from, voxels, odd", "its paper"
    )
    mix_range: tuple[float, float] = setting(
        (0.0, 1.0),
        "the network's part of a view is uniform between these",
        "its paper",
        allowed=Range(least=0, most=1, rising=True),
    )

    def __post_init__(self) -> None:
        """Raise ValueError for kernels that have no middle."""
        if not self.kernel_sizes or any(k < 1 or k % 2 == 0 for k in self.kernel_sizes):
            sizes = " ".join(map(str, self.kernel_sizes))
            raise ValueError(f"--network.kernel-sizes {sizes}: odd and positive numbers")


@torch.no_grad()
def random_network_view(
    image: Tensor, generator: torch.Generator, settings: RandomNetworkSettings
) -> Tensor:
    """a g(x) + (1 - a) x, a uniform in `mix_range`, g a network with weights and biases N(0, 1).

    `image`: (1, 1, z, y, x); the view is float32 of its shape, without a gradient. g(x) and then
    the mixture get the image's Frobenius norm; the view is not clamped. All random numbers come
    from the CPU `generator`, in a number that does not depend on the image.
    Raises ValueError for another shape.
    """
    if image.dim() != 5 or image.shape[:2] != (1, 1):
        raise ValueError(f"image must be (1, 1, z, y, x), not {tuple(image.shape)}")
    image = image.float()
    convolved = random_network(image[0], generator, settings)[None]
    least, most = settings.mix_range
    a = least + float(torch.rand((), generator=generator)) * (most - least)
    if a == 0:
        return image
    return with_norm_of(torch.lerp(image, with_norm_of(convolved, image), a), image)


def random_network(
    volume: Tensor, generator: torch.Generator, settings: RandomNetworkSettings
) -> Tensor:
    """(1, z, y, x) through convolutions of random size, zeros around, leaky ReLU between them."""
    channels = volume
    for layer in range(settings.layers):
        choice = int(torch.randint(len(settings.kernel_sizes), (), generator=generator))
        size = settings.kernel_sizes[choice]
        width = 1 if layer == settings.layers - 1 else settings.channels
        weight = torch.randn(width, len(channels), size, size, size, generator=generator)
        bias = torch.randn(width, generator=generator)
        if layer > 0:
            channels = F.leaky_relu(channels)
        channels = convolve(channels, weight, bias)
    return channels


def convolve(channels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.conv3d` with zero padding "same", of (i, z, y, x) by (o, i, k, k, k) and (o,): (o, ...).

    In float32, also under autocast: a sum over pairs of channels, as the views of Eq. 1 are made.
    """
    if channels.device.type != "cpu":
        return convolve_at_once(channels, weight, bias)
    volumes = [Convolver(channel) for channel in channels]
    results = []
    for kernels, offset in zip(weight, bias.tolist(), strict=True):
        parts = [v.convolve(kernel) for v, kernel in zip(volumes, kernels, strict=True)]
        results.append(torch.stack(parts).sum(0) + offset)
    return torch.stack(results)


def convolve_at_once(channels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`convolve` of all pairs of channels together, which a GPU does in fewer kernels."""
    device, size = channels.device, weight.shape[-1]
    weight, bias = (given.to(device, non_blocking=True) for given in (weight, bias))
    if size > 1:
        summed = fourier_convolve(channels, weight)
    else:
        with torch.autocast(device.type, enabled=False):
            summed = (weight.flatten(1) @ channels.flatten(1)).unflatten(1, channels.shape[1:])
    return summed + bias[:, None, None, None]


def with_norm_of(volume: Tensor, other: Tensor) -> Tensor:
    """`volume` times what gives it the Frobenius norm of the other; zero stays zero."""
    norm = torch.linalg.vector_norm(volume)
    wanted = torch.linalg.vector_norm(other)
    return volume * torch.where(norm > MIN_NORM, wanted / norm.clamp_min(MIN_NORM), 1.0)
