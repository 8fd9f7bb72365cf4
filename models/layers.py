"""Building blocks of the network (Sec. III-D): weight-standardized convolution, residual block."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

NORM_GROUPS = 8
WS_EPS = 1e-12  # added to the variance, under the root
HALF_TYPES = (torch.bfloat16, torch.float16)
UPSAMPLING = ("trilinear", "nearest")
# oneDNN compiles a convolution for each shape and keeps 1024, which a dozen crops overfill; it
# reads this at its first convolution. More take no memory to speak of
# (benchmarks/bench_primitive_cache.py).
PRIMITIVE_CACHE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
os.environ.setdefault(PRIMITIVE_CACHE, "8192")
MANY_CHANNELS = 16  # in and out: from here on a CPU's convolution keeps the usual memory order


def standardize_weight(weight: Tensor) -> Tensor:
    """Each filter of `weight` (out, in, kz, ky, kx) minus its mean, over its standard deviation.

    The variance is the unbiased one, plus 1e-12 under the root. Computed and returned in float32,
    whatever the dtype of `weight`; the convolution casts it to its own dtype afterwards.
    """
    # Layer normalization does it in one pass; its variance is the biased one, (n - 1) / n of ours.
    count = weight[0].numel()
    ratio = (count - 1) / count
    eps = WS_EPS * ratio
    normed = torch.native_layer_norm(weight.float(), weight.shape[1:], None, None, eps)[0]
    return normed * math.sqrt(ratio)


class _ChannelsLast(torch.autograd.Function):
    """The same tensor in memory order (b, z, y, x, c); its gradient returns as (b, c, z, y, x)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last_3d)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
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
    """`F.conv3d` of `x` (b, c, z, y, x), contiguous, in the memory order that suits the device.

    `weight` may be float32 where `x` is not; `bias` is of either dtype under autocast, else of x's.

    On a CPU (benchmarks/bench_network.py measures each of these):

    - in float32 it is oneDNN's that runs; with few channels or few voxels PyTorch's own choice
      falls to one that is up to ten times slower. A 1x1x1 convolution is left to PyTorch.
    - with fewer than `MANY_CHANNELS` on either side it alone runs channels-last: with 8 it is
      faster that way (its weight gradient most of all), while GroupNorm there is many times slower.
      With more channels the change of order costs more than it saves.
    """
    geometry = (stride, padding, dilation)
    if x.device.type != "cpu":
        return F.conv3d(x, weight.to(x.dtype), bias, *geometry)
    exact = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if exact and (max(weight.shape[2:]) == 1 or not torch.backends.mkldnn.enabled):
        return F.conv3d(x, weight, bias, *geometry)
    if not exact and _needs_float32(x, stride):
        with torch.autocast("cpu", enabled=False):
            return F.conv3d(x.float(), weight.float(), bias, *geometry)
    few = min(weight.shape[:2]) < MANY_CHANNELS
    if few:
        x = _ChannelsLast.apply(x)
    if exact:
        result = torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, 1)
    else:
        result = F.conv3d(x, weight.to(x.dtype), bias, *geometry)
    return result.contiguous() if few else result


def _needs_float32(x: Tensor, stride: tuple[int, ...]) -> bool:
    """Whether a CPU's bf16 weight gradient would be wrong; these inputs cost little in float32.

    oneDNN (in PyTorch 2.13) leaves part of it uninitialized, or writes outside its memory, where a
    3x3x3 convolution sees 2 slices, or one of stride 2 sees an odd size.
    """
    return x.shape[2] <= 2 or (stride[0] != 1 and any(size % 2 for size in x.shape[2:]))


class WSConv3d(nn.Module):
    """Bias-free 3D convolution with weight standardization and "same" padding.

    (b, channels_in, z, y, x) to (b, channels_out, z/stride, y/stride, x/stride).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *[kernel_size] * 3))
        self.stride = (stride,) * 3
        self.padding = (dilation * (kernel_size // 2),) * 3
        self.dilation = (dilation,) * 3
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = standardize_weight(self.weight)
        return conv3d(x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation)


class Upsample(nn.Module):
    """Twice the size on each axis, (b, c, z, y, x) to (b, c, 2z, 2y, 2x).

    "trilinear" (corners not aligned) runs as one small matrix product per axis: the same numbers
    as `F.interpolate`, several times faster, and with a gradient that does not depend on the order
    of atomic additions. "nearest" is `F.interpolate`.
    """

    def __init__(self, mode: str) -> None:
        if mode not in UPSAMPLING:
            raise ValueError(f"unknown upsampling {mode!r}; choose from {', '.join(UPSAMPLING)}")
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        z, y, width = (_doubling_matrix(n, x) for n in x.shape[2:])
        x = z @ (y @ (x @ width.T)).flatten(3)  # (b, c, 2z, 2y * 2x)
        return x.unflatten(3, (y.shape[0], width.shape[0]))


def _doubling_matrix(size: int, like: Tensor) -> Tensor:
    """The (2 size, size) matrix of linear interpolation to twice the size, 1/4 and 3/4 a row."""
    rows = torch.eye(size, device=like.device).unsqueeze(0)
    return F.interpolate(rows, scale_factor=2, mode="linear")[0].T.to(like.dtype)


class HalfNormReLU(torch.autograd.Function):
    """GroupNorm and ReLU of a 16-bit tensor, statistics and sums in float32, the result in 16 bits.

    Autocast on a GPU runs GroupNorm in float32 and keeps, for each element, the input's copy and
    the result in 4 bytes each beside the 2 that the convolution takes. Here 2 of the input are kept
    and the 2 that the convolution keeps anyway.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        shape = (x.shape[0], x.shape[1], x[0, 0].numel(), groups)
        normed, mean, rstd = torch.native_group_norm(x.float(), weight, bias, *shape, eps)
        out = normed.relu_().to(x.dtype)
        ctx.save_for_backward(x, out, weight, mean, rstd)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, out, weight, mean, rstd = ctx.saved_tensors
        passed = torch.where(out > 0, grad, 0).float().contiguous()
        grads = torch.ops.aten.native_group_norm_backward(
            *(passed, x.float(), mean, rstd, weight, *ctx.shape, list(ctx.needs_input_grad[:3]))
        )
        return (None if grads[0] is None else grads[0].to(x.dtype), *grads[1:], None, None)


class NormReLU(nn.GroupNorm):
    """GroupNorm with 8 groups, then ReLU: the pre-activation of every convolution but the stem."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" or x.dtype not in HALF_TYPES:
            return super().forward(x).relu_()  # a CPU keeps 16 bits by itself
        result: Tensor = HalfNormReLU.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return result


class ResidualBlock(nn.Module):
    """GN-ReLU-WSconv-GN-ReLU-WSconv + shortcut: (b, channels_in, ...) to (b, channels_out, ...).

    The shortcut is the identity, or GN-ReLU-WSconv 1x1x1 where the number of channels changes.
    """

    def __init__(self, channels_in: int, channels_out: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = NormReLU(channels_in)
        self.conv1 = WSConv3d(channels_in, channels_out, dilation=dilation)
        self.norm2 = NormReLU(channels_out)
        self.conv2 = WSConv3d(channels_out, channels_out, dilation=dilation)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                NormReLU(channels_in), WSConv3d(channels_in, channels_out, kernel_size=1)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.norm2(self.conv1(self.norm1(x))))
        return residual + self.shortcut(x)


class SameConv3d(nn.Conv3d):
    """A convolution of stride 1 with bias or without, its output as large as its input.

    (b, channels_in, z, y, x) to (b, channels_out, z, y, x); runs by `conv3d`. `kernel_size`: odd.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel_size: int = 1, *, bias: bool = True
    ) -> None:
        padding = kernel_size // 2
        super().__init__(channels_in, channels_out, kernel_size, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        sides = [size // 2 for size in self.kernel_size]
        return conv3d(x, self.weight, self.bias, padding=tuple(sides))


def head_std(channels: int) -> float:
    """Deviation of the weights of a 1x1x1 head whose outputs begin at about unit size.

    For decoder features (b, channels, z, y, x): sums of standardized convolutions, whose size is
    sqrt(27 channels / 2), far from that of an input which PyTorch's own initialization expects.
    """
    return 1 / (channels * math.sqrt(27))


def voxel_head(channels: int, channels_out: int = 1) -> SameConv3d:
    """A 1x1x1 convolution on the decoder's features whose outputs begin at about unit size."""
    head = SameConv3d(channels, channels_out)
    nn.init.normal_(head.weight, std=head_std(channels))
    return head
