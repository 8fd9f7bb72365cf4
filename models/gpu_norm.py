"""GroupNorm and ReLU of a GPU's 16-bit channels-last tensor, as few passes over memory as it takes.

On a GPU the norms of this network cost as much as its convolutions, because all that they do is
read and write its largest tensors. PyTorch's GroupNorm takes one memory order, (b, c, z, y, x),
while cuDNN's 16-bit convolutions run in the other; under autocast it works on a float32 copy. Here
the forward pass reads its input twice and writes once, the backward pass reads input and gradient
twice and writes once, all in 16 bits with sums in float32 (docs/gpu.md).

The sums are added up in a fixed order, so a pass repeats to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE, WARPS = 4096, 8  # numbers that a program holds at once, and what of the GPU holds them
PROGRAMS = 2048  # that add up an image's sums, at most
# Up to so many numbers of an image's group, one program does all of it: what counts there is how
# many kernels the host must launch, one in place of three.
FEW = 2**18


@triton.jit(do_not_specialize=["voxels"])
def _sums_kernel(x, sums, voxels, C: tl.constexpr, CP: tl.constexpr, R: tl.constexpr):
    """Of `x` (b, voxels, C): sums of x - k and its square, k the first voxel's, by program."""
    part, parts, image = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    c = tl.arange(0, CP)
    inside = c < C
    x += image.to(tl.int64) * voxels * C
    first = tl.load(x + c, inside, 0.0).to(tl.float32)
    total = tl.zeros([R, CP], tl.float32)
    squares = tl.zeros([R, CP], tl.float32)
    for start in range(part * R, voxels, parts * R):
        row = start + tl.arange(0, R)
        mask = (row < voxels)[:, None] & inside[None, :]
        value = tl.load(x + row.to(tl.int64)[:, None] * C + c[None, :], mask, 0.0).to(tl.float32)
        value = tl.where(mask, value - first[None, :], 0.0)
        total += value
        squares += value * value
    sums += (image * parts + part) * 2 * C
    tl.store(sums + c, tl.sum(total, 0), inside)
    tl.store(sums + C + c, tl.sum(squares, 0), inside)


@triton.jit(do_not_specialize=["voxels", "parts"])
def _statistics_kernel(
    x, sums, weight, bias, terms, voxels, parts, eps,
    C: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Of an image's group: `terms` (b, 4, C): slope, shift, mean and 1 / deviation."""
    image, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, GP) < G
    c = group * G + tl.arange(0, GP)
    total = tl.zeros([R, GP], tl.float32)
    squares = tl.zeros([R, GP], tl.float32)
    sums += image * parts * 2 * C
    for start in range(0, parts, R):
        row = start + tl.arange(0, R)
        mask = (row < parts)[:, None] & inside[None, :]
        at = row[:, None] * 2 * C + c[None, :]
        total += tl.load(sums + at, mask, 0.0)
        squares += tl.load(sums + C + at, mask, 0.0)
    first = tl.load(x + image.to(tl.int64) * voxels * C + c, inside, 0.0).to(tl.float32)
    moved = tl.sum(total, 0) / voxels
    spread = tl.sum(squares, 0) / voxels - moved * moved  # of each channel
    mean = tl.sum(tl.where(inside, first + moved, 0.0), 0) / G
    apart = tl.where(inside, first + moved - mean, 0.0)
    variance = tl.sum(tl.where(inside, spread, 0.0) + apart * apart, 0) / G
    rstd = 1 / tl.sqrt_rn(tl.maximum(variance, 0.0) + eps)
    slope = tl.load(weight + c, inside, 0.0) * rstd
    shift = tl.load(bias + c, inside, 0.0) - mean * slope
    terms += image * 4 * C + c
    tl.store(terms, slope, inside)
    tl.store(terms + C, shift, inside)
    tl.store(terms + 2 * C, mean + tl.zeros([GP], tl.float32), inside)
    tl.store(terms + 3 * C, rstd + tl.zeros([GP], tl.float32), inside)


@triton.jit(do_not_specialize=["voxels"])
def _apply_kernel(x, terms, out, voxels, C: tl.constexpr, CP: tl.constexpr, R: tl.constexpr):
    """`out` = max(0, slope x + shift)."""
    image = tl.program_id(1).to(tl.int64)
    c, row = tl.arange(0, CP), tl.program_id(0) * R + tl.arange(0, R)
    inside = c < C
    mask = (row < voxels)[:, None] & inside[None, :]
    at = image * voxels * C + row.to(tl.int64)[:, None] * C + c[None, :]
    terms += image * 4 * C + c
    slope, shift = tl.load(terms, inside, 0.0), tl.load(terms + C, inside, 0.0)
    value = tl.load(x + at, mask, 0.0).to(tl.float32)
    value = tl.maximum(value * slope[None, :] + shift[None, :], 0.0)
    tl.store(out + at, value.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["voxels"])
def _gradient_sums_kernel(
    x, grad, terms, sums, voxels, C: tl.constexpr, CP: tl.constexpr, R: tl.constexpr
):
    """By program, of the gradient where the ReLU lets it pass: its sum, and that of it times the
    normed value."""
    part, parts, image = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    c = tl.arange(0, CP)
    inside = c < C
    x += image.to(tl.int64) * voxels * C
    grad += image.to(tl.int64) * voxels * C
    terms += image * 4 * C + c
    slope, shift = tl.load(terms, inside, 0.0), tl.load(terms + C, inside, 0.0)
    mean, rstd = tl.load(terms + 2 * C, inside, 0.0), tl.load(terms + 3 * C, inside, 0.0)
    total = tl.zeros([R, CP], tl.float32)
    products = tl.zeros([R, CP], tl.float32)
    for start in range(part * R, voxels, parts * R):
        row = start + tl.arange(0, R)
        mask = (row < voxels)[:, None] & inside[None, :]
        at = row.to(tl.int64)[:, None] * C + c[None, :]
        value = tl.load(x + at, mask, 0.0).to(tl.float32)
        arrived = tl.load(grad + at, mask, 0.0).to(tl.float32)
        passed = tl.where(value * slope[None, :] + shift[None, :] > 0, arrived, 0.0)
        total += passed
        products += passed * ((value - mean[None, :]) * rstd[None, :])
    sums += (image * parts + part) * 2 * C
    tl.store(sums + c, tl.sum(total, 0), inside)
    tl.store(sums + C + c, tl.sum(products, 0), inside)


@triton.jit(do_not_specialize=["voxels", "parts"])
def _gradient_terms_kernel(
    sums, weight, terms, own, lines, voxels, parts,
    C: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Of an image's group: `own` (b, 2, C), gradients of weight and bias; `lines` (b, 2, C): slope
    and constant of what the statistics take off the input's gradient."""
    image, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, GP) < G
    c = group * G + tl.arange(0, GP)
    total = tl.zeros([R, GP], tl.float32)
    products = tl.zeros([R, GP], tl.float32)
    sums += image * parts * 2 * C
    for start in range(0, parts, R):
        row = start + tl.arange(0, R)
        mask = (row < parts)[:, None] & inside[None, :]
        at = row[:, None] * 2 * C + c[None, :]
        total += tl.load(sums + at, mask, 0.0)
        products += tl.load(sums + C + at, mask, 0.0)
    of_bias, of_weight = tl.sum(total, 0), tl.sum(products, 0)
    own += image * 2 * C + c
    tl.store(own, of_weight, inside)
    tl.store(own + C, of_bias, inside)
    scale = tl.load(weight + c, inside, 0.0)
    count = voxels * 1.0 * G
    by_mean = tl.sum(tl.where(inside, scale * of_bias, 0.0), 0) / count
    by_value = tl.sum(tl.where(inside, scale * of_weight, 0.0), 0) / count
    terms += image * 4 * C + c
    mean, rstd = tl.load(terms + 2 * C, inside, 0.0), tl.load(terms + 3 * C, inside, 0.0)
    slope = -rstd * rstd * by_value
    lines += image * 2 * C + c
    tl.store(lines, slope, inside)
    tl.store(lines + C, -rstd * by_mean - mean * slope, inside)


@triton.jit(do_not_specialize=["voxels"])
def _gradient_kernel(
    x, grad, terms, lines, out, voxels, C: tl.constexpr, CP: tl.constexpr, R: tl.constexpr
):
    """The input's gradient: what passes the ReLU times the slope, and the statistics' share."""
    image = tl.program_id(1).to(tl.int64)
    c, row = tl.arange(0, CP), tl.program_id(0) * R + tl.arange(0, R)
    inside = c < C
    mask = (row < voxels)[:, None] & inside[None, :]
    at = image * voxels * C + row.to(tl.int64)[:, None] * C + c[None, :]
    terms += image * 4 * C + c
    slope, shift = tl.load(terms, inside, 0.0), tl.load(terms + C, inside, 0.0)
    lines += image * 2 * C + c
    line, constant = tl.load(lines, inside, 0.0), tl.load(lines + C, inside, 0.0)
    value = tl.load(x + at, mask, 0.0).to(tl.float32)
    arrived = tl.load(grad + at, mask, 0.0).to(tl.float32)
    passed = tl.where(value * slope[None, :] + shift[None, :] > 0, arrived, 0.0)
    result = passed * slope[None, :] + value * line[None, :] + constant[None, :]
    tl.store(out + at, result.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["voxels"])
def _whole_kernel(
    x, weight, bias, terms, out, voxels, eps,
    C: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The whole forward pass of an image's group; `terms` as of `_statistics_kernel`."""
    image, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, GP) < G
    c = group * G + tl.arange(0, GP)
    x += image.to(tl.int64) * voxels * C
    out += image.to(tl.int64) * voxels * C
    first = tl.load(x + group * G).to(tl.float32)
    total = tl.zeros([R, GP], tl.float32)
    squares = tl.zeros([R, GP], tl.float32)
    for start in range(0, voxels, R):
        row = start + tl.arange(0, R)
        mask = (row < voxels)[:, None] & inside[None, :]
        value = tl.load(x + row[:, None] * C + c[None, :], mask, 0.0).to(tl.float32)
        value = tl.where(mask, value - first, 0.0)
        total += value
        squares += value * value
    count = voxels * 1.0 * G
    moved = tl.sum(total) / count
    variance = tl.sum(squares) / count - moved * moved
    mean = first + moved
    rstd = 1 / tl.sqrt_rn(tl.maximum(variance, 0.0) + eps)
    slope = tl.load(weight + c, inside, 0.0) * rstd
    shift = tl.load(bias + c, inside, 0.0) - mean * slope
    terms += image * 4 * C + c
    tl.store(terms, slope, inside)
    tl.store(terms + C, shift, inside)
    tl.store(terms + 2 * C, mean + tl.zeros([GP], tl.float32), inside)
    tl.store(terms + 3 * C, rstd + tl.zeros([GP], tl.float32), inside)
    for start in range(0, voxels, R):
        row = start + tl.arange(0, R)
        mask = (row < voxels)[:, None] & inside[None, :]
        at = row[:, None] * C + c[None, :]
        value = tl.load(x + at, mask, 0.0).to(tl.float32)
        value = tl.maximum(value * slope[None, :] + shift[None, :], 0.0)
        tl.store(out + at, value.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["voxels"])
def _whole_gradient_kernel(
    x, grad, weight, terms, own, out, voxels,
    C: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The whole backward pass of an image's group; `own` as of `_gradient_terms_kernel`."""
    image, group = tl.program_id(0), tl.program_id(1)
    inside = tl.arange(0, GP) < G
    c = group * G + tl.arange(0, GP)
    x += image.to(tl.int64) * voxels * C
    grad += image.to(tl.int64) * voxels * C
    out += image.to(tl.int64) * voxels * C
    terms += image * 4 * C + c
    slope, shift = tl.load(terms, inside, 0.0), tl.load(terms + C, inside, 0.0)
    mean, rstd = tl.load(terms + 2 * C, inside, 0.0), tl.load(terms + 3 * C, inside, 0.0)
    total = tl.zeros([R, GP], tl.float32)
    products = tl.zeros([R, GP], tl.float32)
    for start in range(0, voxels, R):
        row = start + tl.arange(0, R)
        mask = (row < voxels)[:, None] & inside[None, :]
        at = row[:, None] * C + c[None, :]
        value = tl.load(x + at, mask, 0.0).to(tl.float32)
        arrived = tl.load(grad + at, mask, 0.0).to(tl.float32)
        passed = tl.where(value * slope[None, :] + shift[None, :] > 0, arrived, 0.0)
        total += passed
        products += passed * ((value - mean[None, :]) * rstd[None, :])
    of_bias, of_weight = tl.sum(total, 0), tl.sum(products, 0)
    own += image * 2 * C + c
    tl.store(own, of_weight, inside)
    tl.store(own + C, of_bias, inside)
    scale = tl.load(weight + c, inside, 0.0)
    count = voxels * 1.0 * G
    by_mean = tl.sum(tl.where(inside, scale * of_bias, 0.0), 0) / count
    by_value = tl.sum(tl.where(inside, scale * of_weight, 0.0), 0) / count
    line = -rstd * rstd * by_value
    constant = -rstd * by_mean - mean * line
    for start in range(0, voxels, R):
        row = start + tl.arange(0, R)
        mask = (row < voxels)[:, None] & inside[None, :]
        at = row[:, None] * C + c[None, :]
        value = tl.load(x + at, mask, 0.0).to(tl.float32)
        arrived = tl.load(grad + at, mask, 0.0).to(tl.float32)
        passed = tl.where(value * slope[None, :] + shift[None, :] > 0, arrived, 0.0)
        result = passed * slope[None, :] + value * line[None, :] + constant[None, :]
        tl.store(out + at, result.to(out.dtype.element_ty), mask)


class GpuNormReLU(torch.autograd.Function):
    """GroupNorm and ReLU of `x` (b, c, z, y, x) in 16 bits, channels-last; the result as it is.

    `weight` and `bias` (c,) in float32. Kept for the backward pass: the input.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        with torch.cuda.device_of(x):  # Triton launches on the current GPU
            out, terms = _forward(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, terms)
        ctx.groups = groups
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, terms = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        with torch.cuda.device_of(x):
            out, own = _backward(x, grad, weight, terms, ctx.groups)
        of_both = own[0] if len(own) == 1 else own.sum(0)
        return out, of_both[0], of_both[1], None, None


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """The result, and the `terms` (b, 4, c) of `_statistics_kernel`."""
    images, channels = x.shape[:2]
    voxels, of_group = x[0, 0].numel(), _group_sizes(channels, groups)
    terms, out = x.new_empty(images, 4, channels, dtype=torch.float32), torch.empty_like(x)
    if voxels * of_group["G"] <= FEW:
        _whole_kernel[(images, groups)](x, weight, bias, terms, out, voxels, eps, **of_group)
        return out, terms
    sizes = _sizes(channels)
    parts = min(PROGRAMS, triton.cdiv(voxels, sizes["R"]))
    sums = terms.new_empty(images, parts, 2, channels)
    _sums_kernel[(parts, images)](x, sums, voxels, **sizes)
    _statistics_kernel[(images, groups)](
        x, sums, weight, bias, terms, voxels, parts, eps, **of_group
    )
    _apply_kernel[(triton.cdiv(voxels, sizes["R"]), images)](x, terms, out, voxels, **sizes)
    return out, terms


def _backward(
    x: Tensor, grad: Tensor, weight: Tensor, terms: Tensor, groups: int
) -> tuple[Tensor, Tensor]:
    """The input's gradient, and each image's of weight and bias, (b, 2, c)."""
    images, channels = x.shape[:2]
    voxels, of_group = x[0, 0].numel(), _group_sizes(channels, groups)
    own, out = terms.new_empty(images, 2, channels), torch.empty_like(x)
    if voxels * of_group["G"] <= FEW:
        grid = (images, groups)
        _whole_gradient_kernel[grid](x, grad, weight, terms, own, out, voxels, **of_group)
        return out, own
    sizes = _sizes(channels)
    parts = min(PROGRAMS, triton.cdiv(voxels, sizes["R"]))
    sums, lines = terms.new_empty(images, parts, 2, channels), torch.empty_like(own)
    _gradient_sums_kernel[(parts, images)](x, grad, terms, sums, voxels, **sizes)
    _gradient_terms_kernel[(images, groups)](
        sums, weight, terms, own, lines, voxels, parts, **of_group
    )
    grid = (triton.cdiv(voxels, sizes["R"]), images)
    _gradient_kernel[grid](x, grad, terms, lines, out, voxels, **sizes)
    return out, own


def _sizes(channels: int) -> dict[str, int]:
    padded = triton.next_power_of_2(channels)
    rows = max(1, TILE // padded)
    return {"C": channels, "CP": padded, "R": rows, "num_warps": WARPS}


def _group_sizes(channels: int, groups: int) -> dict[str, int]:
    of_group = channels // groups
    padded = triton.next_power_of_2(of_group)
    rows = max(1, TILE // padded)
    return {"C": channels, "G": of_group, "GP": padded, "R": rows, "num_warps": WARPS}
