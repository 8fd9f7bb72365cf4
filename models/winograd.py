"""A 3x3x3 convolution of a CPU with fewer multiplications: Winograd's short filters along z.

Two neighboring slices of the result take six products of a slice with a 3x3 filter; from sums of
the input's slices and of the filter's they follow from four, four slices from six (A. Lavin and
S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, here along one axis). A
tensor that is channels-last in memory is a row of 2D images (y, x, c), so that the sums are over
whole slices and the products are PyTorch's 2D convolutions. Where it runs: `models/convolution.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Matrix = tuple[tuple[float, ...], ...]

BLOCK_BYTES = 2**22  # of the input at a time: its sums and products stay in a CPU's cache


@dataclass(frozen=True)
class Form:
    """The three linear maps of one length: `tile` slices of the result from `tile` + 2 products.

    A row each gives: `inputs`, a sum of the input's slices; `filters`, of the filter's three slices
    for each product; `outputs`, of products, a slice of the result. Between the first and the last,
    products 1 and 2, 3 and 4 belong to a point and its negative, so they take the sum and the
    difference of two sums (`_butterflies`): of the even slices and of the odd ones.
    """

    tile: int
    inputs: Matrix
    filters: Matrix
    outputs: Matrix

    def kernels(self, weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """The 2D filters (out, in, 3, 3), channels-last, of `weight` (out, in, 3, 3, 3)."""
        sums = torch.einsum("pk,oikyx->poiyx", torch.tensor(self.filters), weight.float())
        return [s.to(dtype, memory_format=torch.channels_last) for s in sums]


# Interpolated at 0, 1, -1 and infinity; and at 2 and -2, too.
TWO = Form(
    2,
    inputs=((1, 0, -1, 0), (0, 0, 1, 0), (0, 1, 0, 0), (0, 1, 0, -1)),
    filters=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    outputs=((1, 1, 0, 0), (0, 0, 1, -1)),
)
FOUR = Form(
    4,
    inputs=(
        *((4, 0, -5, 0, 1, 0), (0, 0, -4, 0, 1, 0), (0, -4, 0, 1, 0, 0)),
        *((0, 0, -1, 0, 1, 0), (0, -2, 0, 2, 0, 0), (0, 4, 0, -5, 0, 1)),
    ),
    filters=(
        *((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)),
        *((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
    ),
    outputs=(
        *((1, 1, 0, 1, 0, 0), (0, 0, 1, 0, 2, 0)),
        *((0, 1, 0, 4, 0, 0), (0, 0, 1, 0, 8, 1)),
    ),
)


def choose_form(depth: int) -> Form | None:
    """The longest form whose tiles fill `depth` slices; None where there is none."""
    return next((form for form in (FOUR, TWO) if depth % form.tile == 0), None)


def winograd_conv3d(x: Tensor, weight: Tensor) -> Tensor:
    """`F.conv3d(x, weight, padding=1)` of a CPU's `x` (b, c, z, y, x), up to rounding.

    `weight` (out, c, 3, 3, 3), of float32 or of x's dtype. The result has x's dtype and is
    channels-last; the gradient can be taken once. Raises ValueError where no form fits x.
    """
    form = choose_form(x.shape[2])
    if form is None:
        raise ValueError(f"x has {x.shape[2]} slices; give an even number of them")
    result: Tensor = _Winograd.apply(x, weight, form)
    return result


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, form: Form) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(x, weight)
        ctx.form = form
        return _convolve(x, weight, form)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.to(x.dtype, memory_format=torch.channels_last_3d)
        grad_x = grad_weight = None
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                mirrored = weight.flip(2, 3, 4).transpose(0, 1)
                grad_x = _convolve(grad, mirrored, ctx.form)
            if ctx.needs_input_grad[1]:
                grad_weight = _weight_gradient(x, grad, weight, ctx.form)
        return grad_x, grad_weight, None


def _convolve(x: Tensor, weight: Tensor, form: Form) -> Tensor:
    kernels = form.kernels(weight, x.dtype)
    shape = (x.shape[0], len(weight), *x.shape[2:])
    result = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last_3d)
    for image, out in zip(_slices(x), _slices(result), strict=True):
        for block in _blocks(image, form.tile):
            products = [
                _as_slices(_conv2d(_as_images(part), kernel))
                for part, kernel in zip(_input_sums(image, block, form), kernels, strict=True)
            ]
            _butterflies(products)
            tiles = out[block].unflatten(0, (-1, form.tile))
            for row, place in zip(form.outputs, tiles.unbind(1), strict=True):
                _sum(row, products, out=place)
    return result


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, form: Form) -> Tensor:
    """By the same products: the maps transposed, summed over blocks in float32."""
    sums = torch.zeros(len(form.filters), len(weight), x.shape[1], 3, 3)
    like = sums[0].to(x.dtype, memory_format=torch.channels_last)
    for image, arrived in zip(_slices(x), _slices(grad), strict=True):
        for block in _blocks(image, form.tile):
            tiles = arrived[block].unflatten(0, (-1, form.tile)).unbind(1)
            shares = [_sum(column, tiles) for column in zip(*form.outputs, strict=True)]
            _butterflies(shares)
            parts = _input_sums(image, block, form)
            for total, share, part in zip(sums, shares, parts, strict=True):
                total += _conv2d_weight_gradient(_as_images(share), _as_images(part), like)
    filters = torch.tensor(form.filters)
    return torch.einsum("pk,poiyx->oikyx", filters, sums).to(weight.dtype)


def _blocks(image: Tensor, tile: int) -> Iterator[slice]:
    """Ranges of slices of `image` (z, y, x, c), whole tiles each, of about `BLOCK_BYTES`."""
    size = tile * image[0].numel() * image.element_size()
    step = tile * max(1, BLOCK_BYTES // size)
    for start in range(0, len(image), step):
        yield slice(start, min(start + step, len(image)))


def _input_sums(image: Tensor, block: slice, form: Form) -> list[Tensor]:
    """For each product its sum of slices, (tiles, y, x, c): a tile sees one slice on each side."""
    first, last = block.start - 1, block.stop + 1
    seen = image[max(first, 0) : min(last, len(image))]
    beyond = torch.zeros_like(image[:1])
    if first < 0 or last > len(image):
        seen = torch.cat([beyond] * (first < 0) + [seen] + [beyond] * (last > len(image)))
    span = len(seen) - form.tile - 1
    parts = [seen[place : place + span : form.tile] for place in range(form.tile + 2)]
    sums = [_sum(row, parts) for row in form.inputs]
    _butterflies(sums)
    return sums


def _butterflies(parts: list[Tensor]) -> None:
    """Of 1 and 2, and of 3 and 4 where there are more after them: the sum and the difference."""
    for place in range(1, len(parts) - 1, 2):
        one, other = parts[place : place + 2]
        parts[place], parts[place + 1] = one + other, one - other


def _sum(factors: Sequence[float], parts: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """The sum of `parts`, each times its factor, in `out` if given; else a part may be it."""
    terms = [(f, part) for f, part in zip(factors, parts, strict=True) if f]
    terms.sort(key=lambda term: term[0] != 1)  # the addition takes the first one without a factor
    (factor, total), *others = terms
    if factor == 1 and others:
        (factor, other), *others = others
        total = torch.add(total, other, alpha=factor, out=out)
    elif factor != 1 or out is not None:
        total = torch.mul(total, factor, out=out)
    for factor, other in others:
        total.add_(other, alpha=factor)
    return total


def _conv2d(images: Tensor, kernel: Tensor) -> Tensor:
    """oneDNN's: PyTorch's own choice for few pixels is slower."""
    return torch.mkldnn_convolution(images, kernel, None, (1, 1), (1, 1), (1, 1), 1)


def _conv2d_weight_gradient(grad: Tensor, images: Tensor, like: Tensor) -> Tensor:
    geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    mask = [False, True, False]
    found = torch.ops.aten.convolution_backward(grad, images, like, None, *geometry, mask)
    weight: Tensor = found[1]
    return weight


def _slices(x: Tensor) -> tuple[Tensor, ...]:
    """Each sample of a channels-last tensor (b, c, z, y, x) as (z, y, x, c), in memory order."""
    return x.permute(0, 2, 3, 4, 1).unbind(0)


def _as_images(slices: Tensor) -> Tensor:
    return slices.permute(0, 3, 1, 2)


def _as_slices(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)
