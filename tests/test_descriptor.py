"""The regression of a descriptor, rim left out."""

from __future__ import annotations

import pytest
import torch

from losses.descriptor import descriptor_loss

SHAPE = (1, 9, 2, 4, 5)


def test_it_is_the_mean_squared_error_of_the_inner_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.rand(SHAPE, generator=generator) for _ in range(2))
    inner = (pred - target)[..., 1:3, 1:4]
    torch.testing.assert_close(descriptor_loss(pred, target), inner.square().mean())
    everything = torch.nn.functional.mse_loss(pred, target)
    torch.testing.assert_close(descriptor_loss(pred, target, rim=0), everything)


def test_the_rim_has_no_gradient() -> None:
    pred = torch.ones(SHAPE, requires_grad=True)
    descriptor_loss(pred, torch.zeros(SHAPE)).backward()
    assert pred.grad is not None
    expected = torch.zeros(SHAPE, dtype=torch.bool)
    expected[..., 1:3, 1:4] = True
    assert torch.equal(pred.grad != 0, expected)


@pytest.mark.parametrize("cells", [1, 2])
def test_an_axis_without_a_cell_between_keeps_all(cells: int) -> None:
    pred = torch.ones(1, 9, 2, cells, 5)
    assert float(descriptor_loss(pred, torch.zeros_like(pred))) == 1


def test_16_bits_are_reduced_in_float32_and_shapes_must_match() -> None:
    pred = torch.full((1, 9, 64, 28, 28), 300.0, dtype=torch.float16)
    assert float(descriptor_loss(pred, torch.zeros_like(pred))) == pytest.approx(90_000, rel=1e-3)
    with pytest.raises(ValueError, match="differ"):
        descriptor_loss(pred, pred[:, :8])
