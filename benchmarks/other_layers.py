"""The network with other layers in place of its own, for the benchmarks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import Tensor, nn

from models import backbone, convolution, layers


def plain_conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any) -> Tensor:
    """PyTorch's convolution in its default memory order."""
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry)


def channels_last_conv3d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: Any
) -> Tensor:
    """Every convolution channels-last, its input and gradient brought there and back."""
    x = convolution._ChannelsLast.apply(x)
    return F.conv3d(x, weight.to(x.dtype), bias, **geometry).contiguous()


def plain_upsample(self: layers.Upsample, x: Tensor) -> Tensor:
    """PyTorch's trilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)


def plain_norm_relu(self: layers.NormReLU, x: Tensor) -> Tensor:
    """PyTorch's group normalization, then its ReLU."""
    return F.relu_(nn.GroupNorm.forward(self, x))


CONVOLUTIONS = {
    "channels-last": channels_last_conv3d,
    "contiguous": plain_conv3d,
    "plain": plain_conv3d,
}


@contextmanager
def replaced(by: str) -> Iterator[None]:
    """The network with other convolutions; "plain": with PyTorch's norm and interpolation, too.

    "direct": those of the network, but none by Winograd's sums. On a GPU the others run without
    its channels-last order and the kernels of `models/gpu_norm.py`.
    """
    if by in ("", "direct"):
        least = math.inf if by else convolution.WINOGRAD_PRODUCTS
        with mock.patch.object(convolution, "WINOGRAD_PRODUCTS", least):
            yield
        return
    conv3d = CONVOLUTIONS[by]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(layers, "conv3d", conv3d))
        stack.enter_context(mock.patch.object(backbone, "conv3d", conv3d))
        stack.enter_context(mock.patch.object(layers, "runs_channels_last", return_value=False))
        if by == "plain":
            stack.enter_context(mock.patch.object(layers.Upsample, "forward", plain_upsample))
            stack.enter_context(mock.patch.object(layers.NormReLU, "forward", plain_norm_relu))
        yield
