"""Cutout (DeVries and Taylor, 2017, arXiv 1708.04552): row "Cutout" of Table VI.

Against BL: a random box of each training image is set to the image's mean, after all other
augmentation; the label stays, so that the tumor has to be found from what is around the hole.

Sure: one hole, in every image, its center uniform over the image and its part outside cut off;
the label untouched. Deviations: (1) three axes, and a box of a quarter of each side of the crop in
place of a square in pixels; a quarter is the paper's 8 of 32 (CIFAR-100); its 16 of 32 (CIFAR-10)
would often hide the whole tumor, and is `--side-fraction 0.5`. (2) The paper fills with 0 after its
images are standardized, that is with the data set's mean; ours are in [0, 1], where 0 is -100 HU,
so the crop's own mean stands for it (`--fill zero` is a literal 0). What the authors of Table VI
used is not stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from methods.base import Method, MethodSettings
from utils.settings import AT_LEAST_1, PROBABILITY, setting

FILLS = ("mean", "zero")


@dataclass(frozen=True)
class CutoutSettings(MethodSettings):
    """How large the holes are, how many, and what is in them."""

    side_fraction: float = setting(
        0.25,
        "side of a hole as a part of the image's, each axis; 0 leaves the image as it is",
        "CIFAR-100's 8 of 32 pixels",
        allowed=PROBABILITY,
    )
    holes: int = setting(1, "holes of an image", "its released script", allowed=AT_LEAST_1)
    fill: str = setting(
        "mean", "value inside: the image's mean, or 0 (-100 HU)", "its released script", FILLS
    )


class Cutout(Method):
    """Row Cutout of Table VI: the baseline on images with a hole."""

    Settings = CutoutSettings
    table6: ClassVar[str | None] = "Cutout"
    settings: CutoutSettings

    def augment(
        self,
        image: Tensor,
        label: Tensor,
        spacing: tuple[float, float, float],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The baseline's augmentation, then the holes."""
        image, label = super().augment(image, label, spacing, generator)
        settings = self.settings
        value = image.mean() if settings.fill == "mean" else image.new_zeros(())
        for _ in range(settings.holes):
            image = cut_out(image, settings.side_fraction, value, generator)
        return image, label


def cut_out(
    image: Tensor, side_fraction: float, value: Tensor | float, generator: torch.Generator
) -> Tensor:
    """A copy of `image` (1, 1, z, y, x) with `value` in one box.

    The center is uniform over the voxels. The box reaches half its side to both ends, rounded down
    (an odd side loses a voxel, as in the paper's experiments), and ends at the image's border.
    """
    box = []
    for length in image.shape[2:]:
        half = round(side_fraction * length) // 2
        center = int(torch.randint(length, (), generator=generator))
        box.append(slice(max(center - half, 0), center + half))
    z, y, x = box
    image = image.clone()
    image[:, :, z, y, x] = value
    return image
