"""Case -> training sample of a stage: the crop is read in a worker, the rest is made on the device.

A sample is a function of (seed, index) alone, so that a run that was killed, or spread over
several processes, sees the same samples as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.augment import resize
from data.case import LABEL_PANCREAS, LABEL_TUMOR
from data.intensity import PAD_HU, window_hu
from data.prepare.prepared_case import PreparedCase
from data.roi import Box, center_box, crop, jitter_box, pad_to_multiple
from data.targets.anchors import anchor_masks
from data.targets.sdm import signed_distance_map
from data.targets.slices import slice_labels
from utils.stages import Stage

NETWORK_MULTIPLE = 8  # three halvings
LabelArray = TypeVar("LabelArray", Tensor, np.ndarray)


@dataclass(frozen=True)
class Crop:
    """What a worker reads: int16 HU and uint8 label, (z, y, x).

    `spacing`: mm, of the crop after it was resized to `resize_to` (None: as it is).
    """

    image_hu: Tensor
    label: Tensor
    spacing: tuple[float, float, float]
    resize_to: tuple[int, int, int] | None
    case_id: str
    center: str
    index: int


@dataclass(frozen=True)
class Sample:
    """What a method learns from: image in [0, 1] and its targets, each (1, 1, z, y, x).

    `sdm`, `slice_labels` (1, z) and the stride-8 anchor masks are None where the stage does not
    use them.
    """

    image: Tensor
    mask: Tensor
    sdm: Tensor | None
    slice_labels: Tensor | None
    positive: Tensor | None
    negative: Tensor | None
    case_id: str
    center: str


def target_mask(label: LabelArray, target: str) -> LabelArray:
    """Label, tensor or array -> bool mask of "pancreas" (lesion included) or "tumor"."""
    return label >= (LABEL_TUMOR if target == "tumor" else LABEL_PANCREAS)


def central_window(shape: Sequence[int], window_voxels: tuple[int, int]) -> Box:
    """All slices, and the central (y, x) window, of a volume of `shape`."""
    return center_box(shape, (shape[0], *window_voxels))


def sample_seed(seed: int, index: int, purpose: int) -> int:
    """A seed of its own for each sample and purpose."""
    return int(np.random.SeedSequence([seed, index, purpose]).generate_state(1)[0])


class StageDataset(Dataset[Crop]):
    """Crops of a stage, by running index: epoch `index // len(cases)`, shuffled in each epoch."""

    def __init__(self, cases: Sequence[PreparedCase], stage: Stage, seed: int) -> None:
        """Raise ValueError where no case holds what the stage learns."""
        needed = "tumor" if stage.target == "tumor" else "pancreas"
        usable = [case.has_label and needed in case.boxes for case in cases]
        self.cases = [case for case, use in zip(cases, usable, strict=True) if use]
        self.left_out = [case.case_id for case, use in zip(cases, usable, strict=True) if not use]
        if not self.cases:
            raise ValueError(f"{stage.name}: none of {len(cases)} training cases has a {needed}")
        self.stage, self.seed = stage, seed

    def __len__(self) -> int:
        return len(self.cases)

    def case_of(self, index: int) -> PreparedCase:
        """The case that the running index falls on."""
        epoch, position = divmod(index, len(self.cases))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cases))
        return self.cases[order[position]]

    def __getitem__(self, index: int) -> Crop:
        case = self.case_of(index)
        rng = np.random.default_rng(sample_seed(self.seed, index, purpose=0))
        stage = self.stage
        label = case.label
        assert label is not None
        if stage.roi == "volume":
            box = central_window(case.image_hu.shape, stage.window_voxels)
        else:
            box = jitter_box(
                case.boxes[stage.roi],
                case.image_hu.shape,
                rng,
                z_fraction=stage.jitter_z_fraction,
                yx_voxels=stage.jitter_voxels,
            )
        multiple = NETWORK_MULTIPLE * stage.stride
        image_hu, _ = pad_to_multiple(crop(case.image_hu, box), multiple, value=PAD_HU)
        label_crop, _ = pad_to_multiple(crop(label, box), multiple, value=0)
        step = slice(None, None, stage.stride)
        image_hu, label_crop = image_hu[step, step, step], label_crop[step, step, step]
        resize_to = _new_shape(image_hu.shape, stage, rng)
        resized = image_hu.shape if resize_to is None else resize_to
        z, y, x = (
            length * stage.stride * old / new
            for length, old, new in zip(case.spacing, image_hu.shape, resized, strict=True)
        )
        return Crop(
            torch.from_numpy(np.array(image_hu)),  # a copy: the cache's memory map is read-only
            torch.from_numpy(np.array(label_crop)),
            (z, y, x),
            resize_to,
            case.case_id,
            case.center,
            index,
        )


def _new_shape(
    shape: tuple[int, ...], stage: Stage, rng: np.random.Generator
) -> tuple[int, int, int] | None:
    """Size that the crop is resized to: below the cap always, a random rescaling sometimes.

    `stage.rescale_range` is that of the number of voxels, as in the released scripts: a factor of
    0.8 to 1.2 on it is 0.93 to 1.06 on each side.
    """
    rescale = rng.random() < stage.rescale_probability
    factor = rng.uniform(*stage.rescale_range) ** (1 / 3)  # of a side
    largest = (stage.max_voxels / float(np.prod(shape))) ** (1 / 3)
    if largest >= 1 and (not rescale or stage.roi == "volume"):
        return None
    factor = largest if largest < 1 else min(factor, largest)
    sides = [max(round(n * factor / NETWORK_MULTIPLE), 1) * NETWORK_MULTIPLE for n in shape]
    while np.prod(sides) > stage.max_voxels:  # rounding up went above the cap
        sides[int(np.argmax(sides))] -= NETWORK_MULTIPLE
    z, y, x = sides
    return z, y, x


def load_on_device(crop_: Crop, device: torch.device) -> tuple[Tensor, Tensor]:
    """Crop -> image in [0, 1] and uint8 label, (1, 1, z, y, x), resized where the crop says so."""
    image = window_hu(crop_.image_hu.to(device, non_blocking=True))[None, None]
    label = crop_.label.to(device, non_blocking=True)[None, None]
    if crop_.resize_to is not None:
        image, label = resize(image, label, crop_.resize_to)
    return image, label


def make_sample(image: Tensor, label: Tensor, crop_: Crop, stage: Stage) -> Sample:
    """The augmented image and label with every target that the stage's losses need."""
    mask = target_mask(label, stage.target)
    positive = negative = None
    if stage.projection:
        positive, negative = anchor_masks(mask)
    target = mask.float()
    return Sample(
        image,
        target,
        signed_distance_map(mask) if stage.distance else None,
        slice_labels(target) if stage.slices else None,
        positive,
        negative,
        crop_.case_id,
        crop_.center,
    )
