"""Models whose network is a plain function, for the tests of inference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.inference import (
    Model,
)
from tests._evaluation_fixtures import WindowMethod
from utils.config import Config
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


def make_model(
    function: Callable[[Tensor], Tensor], stage: Stage = TUMOR_FINE, device: torch.device = CPU
) -> tuple[Model, Calls]:
    """A model of `stage` whose network is `function` of the image in [0, 1]."""
    config, network = Config(stage), Calls(function)
    method = WindowMethod(config)
    model = Model(config, method, network, device, "fp32", stage.max_voxels, stage.threshold)
    return model, network


def identity(image: Tensor) -> Tensor:
    return image
