"""Case -> training sample of a stage: the crop is read in a worker, the rest is made on the device.

A sample is a function of (seed, index) alone, so that a run that was killed, or spread over
several processes, sees the same samples as an unbroken one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.augment import resize
from data.case import LABEL_PANCREAS, LABEL_TUMOR
from data.intensity import PAD_HU, window_hu
from data.prepare.prepared_case import PreparedCase
from data.roi import (
    STRIDE,
    Box,
    central_window,
    fixed_box,
    input_shape,
    jitter_box,
    network_input,
)
from data.targets.anchors import anchor_masks
from data.targets.sdm import bounding_box, signed_distance_map
from data.targets.slices import slice_labels
from utils.stages import FIXED, Stage

# What a method can ask for beside the mask, and the fields of `Sample` that it fills.
TARGETS = {"sdm": ("sdm",), "slices": ("slice_labels",), "anchors": ("positive", "negative")}
SHUFFLED, ONE_PER_CENTER = "shuffled", "one_per_center"
SAMPLINGS = (SHUFFLED, ONE_PER_CENTER)
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

    def pin_memory(self) -> Crop:
        """The same in pinned memory, from where a GPU copies while the CPU goes on.

        PyTorch's DataLoader calls it in a thread of its own.
        """
        return replace(self, image_hu=self.image_hu.pin_memory(), label=self.label.pin_memory())


@dataclass(frozen=True)
class Sample:
    """What a method learns from: image in [0, 1] and its targets, each (1, 1, z, y, x).

    `label`: uint8, 0 background, 1 pancreas, 2 tumor. `domain`: index of the case's center among
    the sources. `sdm`, `slice_labels` (1, z) and the stride-8 anchor masks `positive` and
    `negative` (on the CPU) are None unless the method's `targets` name them. `spacing`: mm,
    (z, y, x). `index`: the sample's running number, which decides all that is random in it.
    """

    image: Tensor
    mask: Tensor
    label: Tensor
    spacing: tuple[float, float, float]
    domain: int
    case_id: str
    center: str
    index: int
    sdm: Tensor | None = None
    slice_labels: Tensor | None = None
    positive: Tensor | None = None
    negative: Tensor | None = None

    def need(self, name: str) -> Tensor:
        """The target of that name. Raises ValueError where the method did not ask for it."""
        value = getattr(self, name)
        if value is None:
            target = next(target for target, made in TARGETS.items() if name in made)
            raise ValueError(
                f"{self.center}/{self.case_id}: {name} was not prepared; "
                f"add {target!r} to the method's targets"
            )
        assert isinstance(value, Tensor)
        return value


def target_mask(label: LabelArray, target: str) -> LabelArray:
    """Label, tensor or array -> bool mask of "pancreas" (lesion included) or "tumor"."""
    return label >= (LABEL_TUMOR if target == "tumor" else LABEL_PANCREAS)


def sample_seed(seed: int, index: int, purpose: int) -> int:
    """A seed of its own for each sample and purpose."""
    return int(np.random.SeedSequence([seed, index, purpose]).generate_state(1)[0])


class StageDataset(Dataset[Crop]):
    """Crops of a stage, by running index.

    `sampling` "shuffled": epoch `index // len(cases)`, all cases shuffled in each epoch.
    "one_per_center": `group` samples in a row are one of each source, in the sources' order; each
    source is shuffled by itself and begins again when all of its cases were seen.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        stage: Stage,
        seed: int,
        sampling: str = SHUFFLED,
        sources: Sequence[str] = (),
        around: Mapping[tuple[str, str], Box] | None = None,
    ) -> None:
        """`around`: by (center, case) what is cropped around; None: the label.

        Raise ValueError where no case, or none of a source, holds what the stage learns.
        """
        needed = "tumor" if stage.target == "tumor" else "pancreas"
        usable = [case.has_label and needed in case.boxes for case in cases]
        self.cases = [case for case, use in zip(cases, usable, strict=True) if use]
        self.left_out = [case.case_id for case, use in zip(cases, usable, strict=True) if not use]
        if not self.cases:
            raise ValueError(f"{stage.name}: none of {len(cases)} training cases has a {needed}")
        self.stage, self.seed, self.around = stage, seed, around
        self._orders = [self.cases]
        if sampling == ONE_PER_CENTER:
            self._orders = [[c for c in self.cases if c.center == name] for name in sources]
            empty = [name for name, own in zip(sources, self._orders, strict=True) if not own]
            if empty or not sources:
                raise ValueError(
                    f"{stage.name}: one sample of each source is wanted, and of "
                    f"{', '.join(empty) or 'no source'} no training case has a {needed}"
                )

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def group(self) -> int:
        """Samples that belong together in one step: one, or one of each source."""
        return len(self._orders)

    def case_of(self, index: int) -> PreparedCase:
        """The case that the running index falls on."""
        turn, source = divmod(index, len(self._orders))
        cases = self._orders[source]
        epoch, position = divmod(turn, len(cases))
        key = [self.seed, epoch] + [source] * (len(self._orders) > 1)
        return cases[np.random.default_rng(key).permutation(len(cases))[position]]

    def voxels(self, index: int) -> int:
        """How many voxels the crop of a running index has, without reading it."""
        return prod(self._plan(index).resized)

    def __getitem__(self, index: int) -> Crop:
        plan = self._plan(index)
        case, stage = plan.case, self.stage
        label = case.label
        assert label is not None
        image_hu, _ = network_input(case.image_hu, plan.box, stage.stride, value=PAD_HU)
        label_crop, _ = network_input(label, plan.box, stage.stride)
        z, y, x = (
            length * stage.stride * old / new
            for length, old, new in zip(case.spacing, plan.shape, plan.resized, strict=True)
        )
        return Crop(
            torch.from_numpy(image_hu),
            torch.from_numpy(label_crop),
            (z, y, x),
            plan.resize_to,
            case.case_id,
            case.center,
            index,
        )

    def _plan(self, index: int) -> _Plan:
        """What is cut out for a running index; all that is random in it."""
        case, stage = self.case_of(index), self.stage
        rng = np.random.default_rng(sample_seed(self.seed, index, purpose=0))
        if stage.roi == "volume":
            box = central_window(case.shape, stage.window_voxels, stage.stride)
        else:
            around = case.boxes[stage.roi]
            if self.around is not None:
                around = self.around[case.center, case.case_id]
            box = training_box(stage, around, case, rng)
        shape = input_shape(box.shape, stage.stride)
        return _Plan(case, box, shape, _new_shape(shape, stage, rng))


@dataclass(frozen=True)
class _Plan:
    """A crop before it is read: `shape` of the network's input, and what it is resized to."""

    case: PreparedCase
    box: Box
    shape: tuple[int, int, int]
    resize_to: tuple[int, int, int] | None

    @property
    def resized(self) -> tuple[int, int, int]:
        """The shape that the crop has in the end."""
        return self.resize_to or self.shape


def training_box(stage: Stage, around: Box, case: PreparedCase, rng: np.random.Generator) -> Box:
    """The training crop of a case around a box: random margins, or a fixed size shifted at random.

    (`--crop`.)
    """
    if stage.crop == FIXED:
        shift = rng.uniform(-1, 1, size=3) * stage.shift_mm
        return fixed_box(around, stage.crop_mm, case.spacing, case.shape, shift_mm=shift.tolist())
    return jitter_box(
        around,
        case.shape,
        rng,
        z_fraction=stage.jitter_z_fraction,
        yx_voxels=stage.jitter_voxels,
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
    sides = [max(round(n * factor / STRIDE), 1) * STRIDE for n in shape]
    while np.prod(sides) > stage.max_voxels:  # rounding up went above the cap
        sides[int(np.argmax(sides))] -= STRIDE
    z, y, x = sides
    return z, y, x


def load_on_device(crop_: Crop, device: torch.device) -> tuple[Tensor, Tensor]:
    """Crop -> image in [0, 1] and uint8 label, (1, 1, z, y, x), resized where the crop says so."""
    image = window_hu(crop_.image_hu.to(device, non_blocking=True))[None, None]
    label = crop_.label.to(device, non_blocking=True)[None, None]
    if crop_.resize_to is not None:
        image, label = resize(image, label, crop_.resize_to)
    return image, label


def make_sample(
    image: Tensor,
    label: Tensor,
    crop_: Crop,
    stage: Stage,
    targets: Sequence[str] = (),
    domain: int = 0,
) -> Sample:
    """The augmented image and label, (1, 1, z, y, x), with the `targets` that a method asks for."""
    mask = target_mask(label, stage.target)
    target = mask.float()
    made: dict[str, Tensor] = {}
    # Read once for all targets: augmentation has moved the mask, so no worker could know its box.
    boxes = [bounding_box(mask[0, 0])] if {"sdm", "anchors"} & set(targets) else None
    if "sdm" in targets:
        made["sdm"] = signed_distance_map(mask, boxes=boxes)
    if "slices" in targets:
        made["slice_labels"] = slice_labels(target)
    if "anchors" in targets:
        made["positive"], made["negative"] = anchor_masks(mask, boxes=boxes)
    return Sample(
        image=image,
        mask=target,
        label=label,
        spacing=crop_.spacing,
        domain=domain,
        case_id=crop_.case_id,
        center=crop_.center,
        index=crop_.index,
        **made,
    )
