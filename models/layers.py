"""Building blocks of the network (Sec. III-D): weight-standardized convolution, residual block."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.convolution import CHANNELS_LAST, conv3d, is_channels_last
from models.gpu import HALF_TYPES, runs_channels_last
from utils.allocation import keep_freed_memory

NORM_GROUPS = 8
WS_EPS = 1e-12  # added to the variance, under the root
UPSAMPLING = ("trilinear", "nearest")
keep_freed_memory()


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


class WSConv3d(nn.Module):
    """Bias-free 3D convolution with weight standardization and "same" padding.

    (b, channels_in, z, y, x) to (b, channels_out, z/stride, y/stride, x/stride).
    """

    standardized: Tensor | None  # of `keep_standardized`; None: computed in each pass

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
        self.register_buffer("standardized", None, persistent=False)
        self.register_load_state_dict_pre_hook(_drop_standardized)
        draw_weights(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.standardized
        if weight is None:
            weight = standardize_weight(self.weight)
        return conv3d(x, weight, stride=self.stride, padding=self.padding, dilation=self.dilation)

    def train(self, mode: bool = True) -> WSConv3d:
        """In training mode the weight changes, so what was kept of it is dropped."""
        if mode:
            self.standardized = None
        return super().train(mode)


def _drop_standardized(conv: nn.Module, *_: Any) -> None:
    assert isinstance(conv, WSConv3d)
    conv.standardized = None


def keep_standardized(network: nn.Module) -> None:
    """Standardize each weight now, not in each pass: for a network that predicts from here on.

    It is put in evaluation mode. What is kept is dropped where weights are loaded, or training goes
    on (`train()`). `models/folding.py` makes a copy for export.
    """
    for module in network.eval().modules():
        if isinstance(module, WSConv3d):
            module.standardized = standardize_weight(module.weight.detach())


class Upsample(nn.Module):
    """Twice the size on each axis, (b, c, z, y, x) to (b, c, 2z, 2y, 2x).

    "trilinear" (corners not aligned) runs as one small matrix product per axis: the same numbers
    as `F.interpolate`, several times faster, and with a gradient that does not depend on the order
    of atomic additions. Channels-last on a CPU, and "nearest", is `F.interpolate`.
    """

    def __init__(self, mode: str) -> None:
        if mode not in UPSAMPLING:
            raise ValueError(f"unknown upsampling {mode!r}; choose from {', '.join(UPSAMPLING)}")
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "nearest":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        if is_channels_last(x):
            if x.device.type == "cuda":
                return _double_channels_last(x)
            return F.interpolate(x, scale_factor=2, mode="trilinear")
        z, y, width = (_doubling_matrix(n, x) for n in x.shape[2:])
        x = z @ (y @ (x @ width.T)).flatten(3)  # (b, c, 2z, 2y * 2x)
        return x.unflatten(3, (y.shape[0], width.shape[0]))


def _double_channels_last(x: Tensor) -> Tensor:
    """(b, c, z, y, x) to (b, c, 2z, 2y, 2x), both channels-last: one matrix product per axis."""
    images, channels = x.shape[:2]
    z, y, width = (_doubling_matrix(n, x) for n in x.shape[2:])
    voxels = x.permute(0, 2, 3, 4, 1)  # contiguous
    sizes = [len(z), len(y), len(width)]
    voxels = z @ voxels.flatten(2)  # (b, 2z, y x c)
    voxels = y @ voxels.view(images * sizes[0], x.shape[3], -1)  # (b 2z, 2y, x c)
    voxels = width @ voxels.view(images * sizes[0] * sizes[1], x.shape[4], channels)
    return voxels.view(images, *sizes, channels).permute(0, 4, 1, 2, 3)


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


class ChannelsLastNormReLU(torch.autograd.Function):
    """GroupNorm and ReLU of a CPU's channels-last tensor, in 16 bits or 32, statistics in float32.

    PyTorch's GroupNorm is slow in that memory order, its batch normalization is not. A group's
    mean and variance follow from those of its channels; then the norm is, for each image, a batch
    normalization with given statistics.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        out = torch.empty_like(x)
        statistics: list[Tensor] = []
        for image, result in zip(x.split(1), out.split(1), strict=True):
            mean, var = _group_statistics(image, groups)
            _normalize_into(result, image, (weight, bias, mean, var), eps)
            statistics += [mean, var]
        out.relu_()
        ctx.save_for_backward(x, out, weight, *statistics)
        ctx.groups, ctx.eps = groups, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, out, weight, *statistics = ctx.saved_tensors
        grad = grad.contiguous(memory_format=CHANNELS_LAST)
        passed = torch.ops.aten.threshold_backward(grad, out, 0)
        grad_x = torch.empty_like(x)
        sums = torch.zeros(2, len(weight), dtype=weight.dtype)
        count = x[0, 0].numel() * (len(weight) // ctx.groups)
        images = zip(*(part.split(1) for part in (x, passed, grad_x)), strict=True)
        for index, (image, arrived, result) in enumerate(images):
            mean, var = statistics[2 * index : 2 * index + 2]
            # By the value itself; then by scale and shift, which the statistics' share needs too.
            direct, *parts = torch.ops.aten.native_batch_norm_backward(
                *(arrived, image, weight, mean, var, None, None),
                *(False, ctx.eps, [True, True, True]),
            )
            both = torch.stack(parts)
            sums += both
            shares = _group_sums(weight * both, ctx.groups) / count
            slope, constant = -shares * (var + ctx.eps).rsqrt()
            _normalize_into(result, image, (slope, constant, mean, var), ctx.eps)
            result += direct
        return grad_x, *sums, None, None


def _group_statistics(image: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel's group, (c,) each, of `image` (1, c, z, y, x)."""
    count = image.shape[1]
    dtype = torch.promote_types(image.dtype, torch.float32)  # of the results, as of what is given
    unused, also = torch.zeros(2, count, dtype=dtype)
    mean, var = torch.batch_norm_update_stats(image, unused, also, 0.0)
    group_mean = _group_sums(mean, groups) * groups / count
    return group_mean, _group_sums(var + (mean - group_mean).square(), groups) * groups / count


def _group_sums(values: Tensor, groups: int) -> Tensor:
    """The sum over each channel's group, at each of its channels: (..., c) to (..., c)."""
    by_group = values.unflatten(-1, (groups, -1))
    return by_group.sum(-1, keepdim=True).expand_as(by_group).flatten(-2)


def _normalize_into(
    result: Tensor, image: Tensor, terms: tuple[Tensor, Tensor, Tensor, Tensor], eps: float
) -> None:
    """`result` = (`image` - mean) / sqrt(var + eps) * scale + shift, each float32 of its channel.

    `terms`: scale, shift, mean, var.
    """
    unused = image.new_empty(0, dtype=terms[0].dtype)
    torch.ops.aten.native_batch_norm.out(
        *(image, *terms, False, 0.0, eps), out=result, save_mean=unused, save_invstd=unused.clone()
    )


class NormReLU(nn.GroupNorm):
    """GroupNorm with 8 groups, then ReLU: the pre-activation of every convolution but the stem."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        fused: type[torch.autograd.Function]
        if x.ndim == 5 and x.dtype in HALF_TYPES and runs_channels_last(x):
            from models.gpu_norm import GpuNormReLU

            fused = GpuNormReLU
        elif x.device.type == "cpu" and is_channels_last(x):
            fused = ChannelsLastNormReLU
        elif x.device.type == "cpu" or x.dtype not in HALF_TYPES:
            return super().forward(x).relu_()  # a CPU keeps 16 bits by itself
        else:
            fused = HalfNormReLU
        result: Tensor = fused.apply(x, self.weight, self.bias, self.num_groups, self.eps)
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


def draw_weights(weight: Tensor, std: float | None = None) -> None:
    """Draw from a normal distribution of this deviation, or of He's for a convolution, in place.

    A tensor on "meta" has no values to draw. PyTorch would load its compiler for one, which takes
    as long as loading PyTorch, in processes that only check settings.
    """
    if weight.is_meta:
        return
    if std is None:
        nn.init.kaiming_normal_(weight)
    else:
        nn.init.normal_(weight, std=std)


def head_std(channels: int) -> float:
    """Deviation of the weights of a 1x1x1 head whose outputs begin at about unit size.

    For decoder features (b, channels, z, y, x): sums of standardized convolutions, whose size is
    sqrt(27 channels / 2), far from that of an input which PyTorch's own initialization expects.
    """
    return 1 / (channels * math.sqrt(27))


def voxel_head(channels: int, channels_out: int = 1) -> SameConv3d:
    """A 1x1x1 convolution on the decoder's features whose outputs begin at about unit size."""
    head = SameConv3d(channels, channels_out)
    draw_weights(head.weight, head_std(channels))
    return head
