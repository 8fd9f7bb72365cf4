"""The convolution is PyTorch's in every memory order, size and arithmetic that it chooses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import convolution, layers
from models.convolution import CHANNELS_LAST, conv3d, is_channels_last
from models.layers import SameConv3d
from models.winograd import winograd_conv3d


@pytest.mark.parametrize("channels", [(1, 8), (8, 16), (16, 16), (32, 8)])
@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [((1, 3, 2), 1, 1), ((2, 7, 5), 1, 2), ((3, 5, 9), 2, 1), ((9, 8, 16), 1, 1)],
)
def test_a_float32_convolution_of_any_size_is_the_double_ones_with_its_gradients(
    channels: tuple[int, int], size: tuple[int, int, int], stride: int, dilation: int
) -> None:
    x = torch.randn(2, channels[0], *size, requires_grad=True)
    weight = torch.randn(channels[1], channels[0], 3, 3, 3, requires_grad=True)
    steps, sides = (stride,) * 3, (dilation,) * 3
    found = conv3d(x, weight, stride=steps, padding=sides, dilation=sides)
    expected = F.conv3d(x.double(), weight.double(), None, steps, sides, sides)
    cotangent = torch.randn_like(found)
    pairs = zip(
        (found, *torch.autograd.grad(found, (x, weight), cotangent)),
        (expected, *torch.autograd.grad(expected, (x, weight), cotangent.double())),
        strict=True,
    )
    for ours, exact in pairs:
        torch.testing.assert_close(ours.double(), exact.double(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("channels", "last"),
    [((1, 32), True), ((32, 64), True), ((8, 32), False), ((16, 16), False), ((32, 128), False)],
)
def test_a_large_convolution_stays_channels_last_with_32_channels_or_more_but_128(
    channels: tuple[int, int], last: bool
) -> None:
    weight = torch.randn(channels[1], channels[0], 3, 3, 3)
    x = torch.randn(1, channels[0], 16, 16, 16)
    sides = (1, 1, 1)
    expected = F.conv3d(x, weight, padding=1)
    for order in (torch.contiguous_format, CHANNELS_LAST):
        found = conv3d(x.contiguous(memory_format=order), weight, padding=sides)
        assert is_channels_last(found) == last
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    small = conv3d(x[:, :, :8], weight, padding=sides)
    assert small.is_contiguous()


def test_a_1x1x1_convolution_of_a_channels_last_tensor_is_pytorchs_with_its_gradients() -> None:
    x = torch.randn(2, 32, 3, 4, 5).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    conv = SameConv3d(32, 2)
    parts = [x, *conv.parameters()]
    found, expected = conv(x), F.conv3d(x, conv.weight, conv.bias)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, parts, cotangent),
        torch.autograd.grad(expected, parts, cotangent),
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The dtypes of the convolutions of `conv3d` that take Winograd's way, at any size."""
    found: list[torch.dtype] = []

    def noted(x: Tensor, weight: Tensor) -> Tensor:
        found.append(x.dtype)
        return winograd_conv3d(x, weight)

    monkeypatch.setattr(convolution, "winograd_conv3d", noted)
    monkeypatch.setattr(convolution, "WINOGRAD_PRODUCTS", 1)
    monkeypatch.setattr(convolution, "LAST_VOXELS", 1)
    return found


def test_float32_takes_it_and_bf16_where_it_trains(calls: list[torch.dtype]) -> None:
    conv = layers.WSConv3d(32, 32)
    x = torch.randn(1, 32, 4, 4, 4)
    with torch.no_grad():
        conv(x)
    assert calls == [torch.float32]
    for grad_mode, count in ((torch.no_grad(), 1), (torch.enable_grad(), 2)):
        with grad_mode, torch.autocast("cpu", torch.bfloat16):
            result = conv(x)
        assert len(calls) == count
    assert calls[1] == result.dtype == torch.bfloat16
    result.float().square().mean().backward()
    exact = F.conv3d(x, layers.standardize_weight(conv.weight), padding=1)
    assert (result.float() - exact).norm() < 0.02 * exact.norm()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    "conv",
    [
        layers.WSConv3d(32, 32, kernel_size=1),
        layers.WSConv3d(32, 32, stride=2),
        layers.WSConv3d(32, 32, dilation=2),
        layers.WSConv3d(16, 32),
    ],
)
def test_any_other_convolution_does_not(conv: layers.WSConv3d, calls: list[torch.dtype]) -> None:
    conv(torch.randn(1, conv.weight.shape[1], 4, 4, 4))
    assert calls == []


def test_neither_does_an_odd_depth_nor_a_small_one(
    calls: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = layers.WSConv3d(32, 32)
    conv(torch.randn(1, 32, 5, 4, 4))
    monkeypatch.setattr(convolution, "WINOGRAD_PRODUCTS", 32 * 32 * 64 + 1)
    conv(torch.randn(1, 32, 4, 4, 4))
    assert calls == []


def test_neither_does_one_with_a_bias_which_is_added(calls: list[torch.dtype]) -> None:
    conv = layers.SameConv3d(32, 32, 3)
    x = torch.randn(1, 32, 4, 4, 4)
    expected = F.conv3d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
    assert calls == []
