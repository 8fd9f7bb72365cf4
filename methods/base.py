"""`Method`: the contract of everything that is trained here, and the plain baseline of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data.augment import AugmentSettings, augment
from data.dataset import Sample
from losses.segmentation import segmentation_loss
from models.backbone import ResidualEncoderDecoder
from utils.stages import Config


@dataclass(frozen=True)
class MethodSettings:
    """Settings that every method has; a method adds its own in a subclass."""

    augment: AugmentSettings = AugmentSettings()


class Method:
    """Eq. 2 on one view. A method overrides the smallest hook that makes it different."""

    Settings: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, config: Config) -> None:
        self.config, self.stage = config, config.stage
        self.settings = override(self.Settings(), config.settings)

    def build_network(self) -> nn.Module:
        """The shared backbone with the heads that the stage's losses need."""
        return ResidualEncoderDecoder(
            width=self.config.width,
            distance=self.stage.distance,
            slices=self.stage.slices,
            projection=self.stage.projection,
            upsample=self.config.upsample,
        )

    def augment(
        self,
        image: Tensor,
        label: Tensor,
        spacing: tuple[float, float, float],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Geometric and intensity augmentation of image and label, (1, 1, z, y, x)."""
        mirror_axes = self.stage.mirror_axes
        return augment(image, label, spacing, self.settings.augment, generator, mirror_axes)

    def loss(
        self, network: nn.Module, sample: Sample, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Loss terms by name (keys of `stage.weights`), each a float32 scalar with a gradient."""
        outputs = network(sample.image)
        return {"seg": segmentation_loss([outputs.logits], sample.mask)}

    def after_epoch(self, network: nn.Module, epoch: int) -> None:
        """Called when all samples of an epoch have been seen."""

    def predict(self, network: nn.Module, image: Tensor) -> Tensor:
        """Image (b, 1, z, y, x) in [0, 1] -> probability of the target, float32, same shape."""
        return torch.sigmoid(network(image).logits.float())


def override(settings: Any, values: Mapping[str, Any], place: str = "") -> Any:
    """A copy of frozen `settings` with `values` by dotted name ("augment.rotation_degrees").

    A ValueError names an unknown setting and the choices, or a value of another type.
    """
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    known = {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    for name, value in values.items():
        head, dot, rest = name.partition(".")
        if head not in known:
            raise ValueError(f"unknown setting {place + name!r}; choose from {', '.join(known)}")
        if dot:
            nested.setdefault(head, {})[rest] = value
        else:
            changes[head] = _matching(known[head], value, place + name)
    for head, inner in nested.items():
        if not dataclasses.is_dataclass(known[head]):
            raise ValueError(f"setting {place + head!r} is a value; it has no parts")
        changes[head] = override(known[head], inner, f"{place}{head}.")
    return dataclasses.replace(settings, **changes)


def _matching(default: Any, value: Any, name: str) -> Any:
    if isinstance(default, tuple) and isinstance(value, (list, tuple)) and value:
        is_range = isinstance(default[0], float)  # as long as its default; kernel sizes are not
        if not is_range or len(value) == len(default):
            return tuple(_matching(default[0], item, name) for item in value)
    if isinstance(default, float) and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if default is not None and (type(default) is not type(value) or isinstance(value, float)):
        raise ValueError(f"setting {name!r}: {value!r} is not like its default {default!r}")
    return value
