"""BigAug (Zhang et al., IEEE TMI 2020): its stack of nine transforms, beside Table VI's row.

Against BL: each training image goes through nine random transforms, each with probability 0.5:
blur, sharpening, noise, brightness, gamma, perturbation of intensities, rotation, scaling, elastic
deformation; they take the place of BL's rotation and noise, mirroring stays.

Table VI's row "BigAug" is equal to Table V's "BL" in all twelve numbers: one run, reported twice,
with the augmentation of every row. So `bl` stands for that printed row. This is what the name
says; it has no printed number, and is not to be read as a reproduction of the 36.60.
The nine transforms are the paper's; their ranges are an unofficial version's, which agree with the
paper's as far as known from memory; the deformation's (smoothness 10 to 13, factor 0 to 1000) are
from memory alone.
Deviations: (1) Scaling by 0.8 to 1.25, for 0.4 to 1.6 loses small tumors
(`--stack.scale-range 0.4 1.6`). (2) Its images are standardized, ours in [0, 1]: the noise is a
part of the image's deviation, brightness and perturbation are of [0, 1], and the image is clamped
at the end. (3) Smoothness in mm, the deformation as on a grid of 1 mm. (4) "Perturbation" is
(1 + u) x + v; that version leaves out the 1, which nearly erases the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from data.augment import AugmentSettings
from data.bigaug import StackSettings, apply_stack
from methods.base import Method, MethodSettings


@dataclass(frozen=True)
class BigAugSettings(MethodSettings):
    """The stack, and BL's augmentation before it: mirroring alone."""

    augment: AugmentSettings = AugmentSettings(rotation_probability=0.0, noise_probability=0.0)
    stack: StackSettings = StackSettings()


class BigAug(Method):
    """The baseline with BigAug's nine transforms; `bl` is the row of Table VI."""

    Settings = BigAugSettings
    extra_row: ClassVar[str | None] = "BigAug (nine transforms)"
    settings: BigAugSettings

    def augment(
        self,
        image: Tensor,
        label: Tensor,
        spacing: tuple[float, float, float],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The baseline's augmentation, then the stack."""
        image, label = super().augment(image, label, spacing, generator)
        return apply_stack(image, label, spacing, self.settings.stack, generator)
