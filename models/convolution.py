"""How a convolution is computed: on a CPU its memory order, its kernel and Winograd's sums."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpu import computing_dtype, runs_channels_last
from models.winograd import choose_form, winograd_conv3d

# oneDNN compiles a convolution for each shape and keeps 1024, which a dozen crops overfill; it
# reads this at its first convolution. More take no memory to speak of
# (benchmarks/bench_primitive_cache.py).
PRIMITIVE_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
os.environ.setdefault(PRIMITIVE_CACHE, "8192")
CHANNELS_LAST = torch.channels_last_3d
# Of a CPU's convolutions, in and out (benchmarks/bench_network.py): with fewer channels it runs
# channels-last and returns the usual order; with these, and many voxels, channels-last stays.
FEW_CHANNELS = 16
LAST_CHANNELS = range(32, 128)
LAST_VOXELS = 4096
# Of these, and products of channels in and out and voxels: Winograd's sums save more than they
# cost (benchmarks/bench_network.py).
WINOGRAD_CHANNELS = 32
WINOGRAD_PRODUCTS = 2**25


class _ChannelsLast(torch.autograd.Function):
    """The same tensor in memory order (b, z, y, x, c); its gradient returns as (b, c, z, y, x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=CHANNELS_LAST)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
    dilation: tuple[int, ...] = (1, 1, 1),
) -> Tensor:
    """`F.conv3d` of `x` (b, c, z, y, x), in the memory order that suits the device.

    `weight` may be float32 where `x` is not; `bias` is of either dtype under autocast, else of x's.

    On a GPU in 16 bits the result is channels-last (`runs_channels_last`).

    On a CPU (benchmarks/bench_network.py measures each of these):

    - in float32 it is oneDNN's that runs; with few channels or few voxels PyTorch's own choice
      falls to one that is up to ten times slower. A 1x1x1 convolution is left to PyTorch, or is a
      matrix product where `x` is channels-last.
    - where `_stays_channels_last` the result is channels-last, (b, z, y, x, c) in memory, else
      contiguous: then oneDNN copies neither input, output nor gradients.
    - with fewer than `FEW_CHANNELS` on either side it alone runs channels-last: with 8 it is
      faster that way (its weight gradient most of all), while norms there are slower.
    - a large 3x3x3 one takes fewer multiplications (models/winograd.py) in float32, and in bf16
      where a gradient is taken: bf16 predictions keep the smaller rounding (docs/usage.md).
    """
    geometry = (stride, padding, dilation)
    if runs_channels_last(x):
        return _gpu_conv3d(x, weight, bias, geometry)
    if x.device.type != "cpu":
        return F.conv3d(x, weight.to(x.dtype), bias, *geometry)
    exact = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if is_channels_last(x) and _is_product(weight, stride, padding):
        return _product(x, weight.to(x.dtype), bias)
    if exact and (max(weight.shape[2:]) == 1 or not torch.backends.mkldnn.enabled):
        return F.conv3d(x.contiguous(), weight, bias, *geometry)
    if not exact and _needs_float32(x, stride):
        with torch.autocast("cpu", enabled=False):
            return F.conv3d(x.float(), weight.float(), bias, *geometry)
    if bias is None and _suits_winograd(x, weight, geometry):
        dtype = torch.float32 if exact else torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            return winograd_conv3d(x.to(dtype), weight)
    few, last = min(weight.shape[:2]) < FEW_CHANNELS, _stays_channels_last(x, weight)
    if last:
        x = x.contiguous(memory_format=CHANNELS_LAST)
    else:
        x = _ChannelsLast.apply(x) if few else x.contiguous()
    if exact:
        result = torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, 1)
    else:
        result = F.conv3d(x, weight.to(x.dtype), bias, *geometry)
    if last:
        return result.contiguous(memory_format=CHANNELS_LAST)  # one channel is in either order
    return result.contiguous() if few else result


def _gpu_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple[tuple[int, ...], ...]
) -> Tensor:
    """Channels-last, in the 16 bits of `x` or of autocast."""
    stride, padding, dilation = geometry
    if _is_product(weight, stride, padding):
        return _product(x, weight.to(x.dtype), bias)
    dtype = computing_dtype(x)
    x = x.to(dtype, memory_format=CHANNELS_LAST)
    weight = weight.to(dtype, memory_format=CHANNELS_LAST)
    return F.conv3d(x, weight, bias, stride, padding, dilation)


def _is_product(weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> bool:
    """Whether a convolution is a matrix product of the channels of each voxel."""
    return max(*weight.shape[2:], *stride) == 1 and not any(padding)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The 1x1x1 convolution of a channels-last tensor; the result is channels-last."""
    voxels = F.linear(x.permute(0, 2, 3, 4, 1), weight.flatten(1), bias)
    return voxels.permute(0, 4, 1, 2, 3)


def _stays_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether a CPU's result stays in that order, so that the next layers are in it, too.

    Not with few voxels, where copies cost little and the norm's calls count; nor with more
    channels, whose weights PyTorch would copy.
    """
    channels_out, channels_in = weight.shape[:2]
    if channels_out not in LAST_CHANNELS or not (channels_in == 1 or channels_in in LAST_CHANNELS):
        return False
    return len(x) * x[0, 0].numel() >= LAST_VOXELS


def _suits_winograd(x: Tensor, weight: Tensor, geometry: tuple[tuple[int, ...], ...]) -> bool:
    """Whether a CPU's convolution is a large 3x3x3 one whose rounding may grow by Winograd's sums.

    In bf16 that is where a gradient is taken, and a filter's sums count where voxels are few.
    """
    if (*weight.shape[2:], *geometry) != (3, 3, 3, (1, 1, 1), (1, 1, 1), (1, 1, 1)):
        return False
    voxels, pairs = len(x) * x[0, 0].numel(), weight[:, :, 0, 0, 0].numel()
    if min(weight.shape[:2]) < WINOGRAD_CHANNELS or pairs * voxels < WINOGRAD_PRODUCTS:
        return False
    half = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if half else x.dtype
    trains = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    bears = dtype == torch.float32 or (dtype == torch.bfloat16 and trains and voxels >= LAST_VOXELS)
    return bears and choose_form(x.shape[2]) is not None


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor (b, c, z, y, x) is (b, z, y, x, c) in memory, and not both."""
    if x.ndim != 5 or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=CHANNELS_LAST)


def _needs_float32(x: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether a CPU's bf16 weight gradient would be wrong; these inputs cost little in float32.

    oneDNN (in PyTorch 2.13) leaves part of it uninitialized, or writes outside its memory, where a
    3x3x3 convolution sees 2 slices, or one of stride 2 sees an odd size.
    """
    return x.shape[2] <= 2 or (stride[0] != 1 and any(size % 2 for size in x.shape[2:]))
