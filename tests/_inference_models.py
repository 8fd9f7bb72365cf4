"""Predictors whose network is a plain function, for the tests of inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.inference import Predictor
from methods import make_config
from tests._evaluation_fixtures import WindowMethod
from utils.stages import TUMOR_FINE, Stage

CPU = torch.device("cpu")


class Calls(nn.Module):
    """A function as a network; keeps the shape of every input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape[2:]))
        return self.function(image)


def make_predictor(
    function: Callable[[Tensor], Tensor],
    stage: Stage = TUMOR_FINE,
    device: torch.device = CPU,
    **config: Any,
) -> tuple[Predictor, Calls]:
    """A predictor of `stage` whose network is `function` of the image in [0, 1]."""
    made, network = make_config(stage, **config), Calls(function)
    method = WindowMethod(made)
    method.network = network
    return Predictor(made, method, device, "fp32"), network


def identity(image: Tensor) -> Tensor:
    return image
