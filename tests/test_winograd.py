"""The forms as exact arithmetic; the convolution and its gradients against PyTorch's in float64."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import winograd
from models.winograd import FOUR, TWO, Form, choose_form, winograd_conv3d

CHANNELS = (3, 5)


def as_fraction(number: float) -> Fraction:
    """The fraction that is meant: 1/6 is no binary number."""
    return Fraction(number).limit_denominator(24)


@pytest.mark.parametrize("form", [TWO, FOUR])
def test_a_form_is_the_sliding_product_of_three_numbers_exactly(form: Form) -> None:
    slices = [Fraction(n) for n in (3, -1, 4, 1, -5, 9)[: form.tile + 2]]
    taps = [Fraction(n) for n in (2, -7, 11)]

    def apply(matrix: winograd.Matrix, numbers: list[Fraction]) -> list[Fraction]:
        return [
            sum((as_fraction(f) * n for f, n in zip(row, numbers, strict=True)), Fraction(0))
            for row in matrix
        ]

    def butterflies(numbers: list[Fraction]) -> list[Fraction]:
        for k in range(1, len(numbers) - 1, 2):
            one, other = numbers[k : k + 2]
            numbers[k : k + 2] = [one + other, one - other]
        return numbers

    sums = butterflies(apply(form.inputs, slices))
    products = [a * b for a, b in zip(sums, apply(form.filters, taps), strict=True)]
    wanted = [
        sum((tap * slices[k + j] for j, tap in enumerate(taps)), Fraction(0))
        for k in range(form.tile)
    ]
    assert apply(form.outputs, butterflies(products)) == wanted
    assert len(products) == form.tile + 2


def draw(depth: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and the result's gradient, float64."""
    generator = torch.Generator().manual_seed(depth)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    given, out = CHANNELS
    x = normal(batch, given, depth, 5, 4)
    return x, normal(out, given, 3, 3, 3), normal(batch, out, depth, 5, 4)


def run(
    convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, grad: Tensor
) -> list[Tensor]:
    """The result, and the gradients of x and of the weight."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    result = convolve(x, weight)
    result.backward(grad.to(result.dtype))
    assert x.grad is not None
    assert weight.grad is not None
    return [result.detach(), x.grad, weight.grad]


@pytest.mark.parametrize("block_bytes", [1, winograd.BLOCK_BYTES])
@pytest.mark.parametrize("depth", [2, 4, 6, 12])
def test_result_and_gradients_are_those_of_the_plain_convolution(
    depth: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block_bytes)  # 1: a tile at a time
    x, weight, grad = draw(depth)
    wanted = run(lambda x, w: F.conv3d(x, w, padding=1), x, weight, grad)
    found = run(winograd_conv3d, x.float(), weight.float(), grad)
    for mine, exact in zip(found, wanted, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-4)
        assert exact.abs().max() > 1


def test_bf16_results_and_gradients_are_within_two_percent() -> None:
    x, weight, grad = draw(8)
    wanted = run(lambda x, w: F.conv3d(x, w, padding=1), x, weight, grad)
    found = run(winograd_conv3d, x.bfloat16(), weight.float(), grad)
    for mine, exact in zip(found, wanted, strict=True):
        assert (mine.double() - exact).norm() < 0.02 * exact.norm()
    assert [each.dtype for each in found] == [torch.bfloat16, torch.bfloat16, torch.float32]


def test_the_longest_form_that_fills_the_depth_is_chosen_and_an_odd_depth_refused() -> None:
    assert [choose_form(depth) for depth in (12, 6, 2, 7, 1)] == [FOUR, TWO, TWO, None, None]
    with pytest.raises(ValueError, match="3 slices; give an even number"):
        winograd_conv3d(torch.zeros(1, 2, 3, 4, 4), torch.zeros(2, 2, 3, 3, 3))
