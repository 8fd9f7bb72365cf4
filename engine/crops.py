"""What a stage sees: the crop around a box, and when its rounds of inference have settled."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from data.roi import (
    Box,
    central_window,
    expand_box,
    fixed_box,
    largest_move_mm,
    move_middle,
)
from utils.stages import FIXED, PANCREAS, Stage


@dataclass(frozen=True)
class Found:
    """What a stage can read of the stages before beside the box it crops around.

    On the prepared grid; `NOTHING` for the paper's settings. `pancreas`: its box, for
    `--crop-middle pancreas`. `mask`: bool (z, y, x), what the coarse stage found, for
    `--second-channel coarse`; empty where that was nothing.
    """

    pancreas: Box | None = None
    mask: np.ndarray | None = field(default=None, repr=False)


NOTHING = Found()


def has_settled(
    stage: Stage, before: Box | None, after: Box | None, spacing: tuple[float, float, float]
) -> bool:
    """Whether what is cropped around moves by less than `settled_slices` slices (mm: of z)."""
    if before is None or after is None:
        return False
    return largest_move_mm(before, after, spacing) < stage.settled_slices * spacing[0]


def input_box(
    stage: Stage,
    shape: tuple[int, ...],
    around: Box | None,
    spacing: tuple[float, float, float],
    pancreas: Box | None = None,
) -> Box:
    """The crop that the stage sees, or the central window.

    `around` with its margin, or a fixed size (`--crop`); `spacing` in mm, (z, y, x). With
    `--crop-middle pancreas` its middle lies in the box `pancreas` with the margin, where there is
    one.
    """
    if stage.roi == "volume" or around is None:
        return central_window(shape, stage.window_voxels, stage.stride)
    if stage.crop == FIXED:
        box = fixed_box(around, stage.crop_mm, spacing, shape)
    else:
        box = expand_box(around, stage.margin_voxels, shape)
    if stage.crop_middle != PANCREAS or pancreas is None:
        return box
    return move_middle(box, expand_box(pancreas, stage.margin_voxels, shape), shape)
