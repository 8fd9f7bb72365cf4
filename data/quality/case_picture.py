"""The picture of one case with a warning: three slices through its label, and what is said of it.

All slices are drawn in millimeters and as a radiologist sees them: the patient's right on the
left of the axial and coronal ones, the head above.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import LABEL_TUMOR, Case
from data.intensity import HU_WINDOW
from data.roi import bounding_box
from utils.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLANES = (("axial", 0), ("coronal", 1), ("sagittal", 2))


def draw_case(case: Case, warnings: Sequence[str], path: Path) -> None:
    """A PNG with an axial, a coronal and a sagittal slice; pancreas yellow, tumor red.

    Through the middle of the tumor, else of the label, else of the image.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    place = _middle(case)
    for axes, (name, axis) in zip(figure.subplots(1, 3), PLANES, strict=True):
        _draw_plane(axes, case, axis, place[axis])
        axes.set_title(f"{name}, slice {place[axis] + 1} of {case.image_hu.shape[axis]}")
    text = "\n".join(textwrap.fill(warning, 150) for warning in warnings)
    figure.suptitle(f"{case.center}/{case.case_id}\n{text}", fontsize=8, parse_math=False)
    write_atomic(path, lambda stream: figure.savefig(stream, dpi=100, format="png"))


def _middle(case: Case) -> tuple[int, int, int]:
    """Voxel (z, y, x) that all three slices pass."""
    box = None
    if case.label is not None:
        box = bounding_box(case.label == LABEL_TUMOR) or bounding_box(case.label > 0)
    start, stop = ((0, 0, 0), case.image_hu.shape) if box is None else (box.start, box.stop)
    z, y, x = ((a + b - 1) // 2 for a, b in zip(start, stop, strict=True))
    return z, y, x


def _draw_plane(axes: Axes, case: Case, axis: int, place: int) -> None:
    rows, columns = (step for other, step in enumerate(case.spacing) if other != axis)
    image = np.take(case.image_hu, place, axis)
    width, height = image.shape[1] * columns, image.shape[0] * rows
    shown = axes.imshow(image, cmap="gray", vmin=HU_WINDOW[0], vmax=HU_WINDOW[1])
    shown.set_extent((0, width, height, 0))  # y runs to the back: down
    axes.set_xlim(0, width)
    axes.set_ylim(*((height, 0) if axis == 0 else (0, height)))  # z runs to the head: up
    if case.label is not None:
        label = np.take(case.label, place, axis)
        for value, color in ((1, "yellow"), (LABEL_TUMOR, "red")):
            mask = label >= value
            if mask.any() and not mask.all():
                axes.contour(
                    (np.arange(mask.shape[1]) + 0.5) * columns,
                    (np.arange(mask.shape[0]) + 0.5) * rows,
                    mask.astype(np.float32),
                    levels=[0.5],
                    colors=color,
                    linewidths=0.8,
                )
    axes.set_xticks([])
    axes.set_yticks([])
