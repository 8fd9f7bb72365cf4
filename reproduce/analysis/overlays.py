"""Overlays: the CT with the label's and each stage's contours, as in Fig. 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Case
from data.intensity import HU_WINDOW
from reproduce.analysis.pyplot import import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Color = tuple[int, int, int]
# Fig. 5's colors, RGB: labels in red (tumor) and green (pancreas), results in blue and yellow.
TUMOR_LABEL, PANCREAS_LABEL = (255, 0, 0), (0, 200, 0)
TUMOR_PRED, PANCREAS_PRED = (60, 120, 255), (255, 220, 0)
COLORS_SAID = "label: tumor red, pancreas green; result (dashed): tumor blue, pancreas yellow"
RESULT_DASHES = (0, (3.0, 1.2))  # labels are solid: a print in gray tells them apart
PLANES = {"axial": 0, "coronal": 1}  # the array's axis that a plane cuts
ZOOM_MARGIN_MM = 25.0
PANEL_PIXELS = 480


@dataclass(frozen=True)
class Cut:
    """One plane of a case: the array's axis and index that it cuts, and the part that is shown."""

    axis: int
    index: int
    window: tuple[slice, slice]  # rows and columns of the plane, voxels
    spacing: tuple[float, float]  # mm of a row and of a column

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture: square pixels, the longer side `PANEL_PIXELS`."""
        height, width = (
            (part.stop - part.start) * step
            for part, step in zip(self.window, self.spacing, strict=True)
        )
        scale = PANEL_PIXELS / max(height, width)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def take(self, volume: np.ndarray) -> np.ndarray:
        """The shown part of a volume (z, y, x) -> (rows, columns); coronal with the head up."""
        plane = np.take(volume, self.index, axis=self.axis)[self.window]
        return plane if self.axis == 0 else plane[::-1]


@dataclass(frozen=True)
class Outline:
    """A mask (z, y, x) whose contour is drawn; results are dashed."""

    mask: np.ndarray
    color: Color
    is_result: bool = False


def draw_overlay(path: Path, case: Case, preds: Mapping[str, np.ndarray]) -> None:
    """Write a PNG: a row per plane (axial, coronal), a panel for the CT and for each stage.

    `preds`: stage name -> bool mask (z, y, x) on the case's grid. The planes go where the label's
    tumor is largest, else its pancreas, else the last mask that is not empty.
    """
    focus = focus_mask(case, list(preds.values()))
    labels = label_outlines(case)
    panels: dict[str, list[Outline]] = {"CT": [], "label": labels}
    panels |= {name: [*labels, result_outline(name, pred)] for name, pred in preds.items()}
    cuts = {plane: choose_cut(case, focus, plane) for plane in PLANES}
    heights = [cut.size[1] / cut.size[0] for cut in cuts.values()]
    plt = import_pyplot()
    figure, axes = plt.subplots(
        *(2, len(panels)),
        figsize=(3.0 * len(panels), 3.0 * sum(heights) + 1.2),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for row, (plane, cut) in enumerate(cuts.items()):
        for axis, (title, outlines) in zip(axes[row], panels.items(), strict=True):
            draw_panel(axis, case, cut, outlines, linewidth=2.0)
            axis.set_title(title.replace("_", " ") if row == 0 else plane, fontsize=12)
    figure.suptitle(f"{case.center} {case.case_id}   {COLORS_SAID}", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def label_outlines(case: Case, organs: Sequence[str] = ("pancreas", "tumor")) -> list[Outline]:
    """The label's contours, the pancreas (lesion included) first; none without a label."""
    if case.label is None:
        return []
    masks = {
        "pancreas": Outline(case.label >= LABEL_PANCREAS, PANCREAS_LABEL),
        "tumor": Outline(case.label == LABEL_TUMOR, TUMOR_LABEL),
    }
    return [masks[organ] for organ in organs]


def result_outline(stage: str, pred: np.ndarray) -> Outline:
    """A stage's contour, in the color of its organ."""
    return Outline(pred, TUMOR_PRED if stage.startswith("tumor") else PANCREAS_PRED, True)


def focus_mask(case: Case, preds: Sequence[np.ndarray]) -> np.ndarray:
    """What the picture is centered on; the whole volume where there is nothing."""
    choices = []
    if case.label is not None:
        choices = [case.label == LABEL_TUMOR, case.label >= LABEL_PANCREAS]
    choices += list(reversed(preds))
    return next((mask for mask in choices if mask.any()), np.ones_like(case.image_hu, bool))


def choose_cut(
    case: Case, focus: np.ndarray, plane: str, *, zoom: bool = True, square: bool = False
) -> Cut:
    """The plane ("axial" or "coronal") in which `focus` is largest.

    `zoom`: only the organs with a margin of 25 mm, else all of the plane. `square`: the zoomed part
    is made as high as it is wide, in mm, as far as the plane reaches.
    """
    axis = PLANES[plane]
    areas = focus.sum(axis=tuple(a for a in range(3) if a != axis))
    largest = np.flatnonzero(areas == areas.max())
    shown = [a for a in range(3) if a != axis]
    window = _zoom_window(case, focus, shown) if zoom else [(0, focus.shape[a]) for a in shown]
    spacing = case.spacing[shown[0]], case.spacing[shown[1]]
    if square and zoom:
        side_mm = max((b - a) * mm for (a, b), mm in zip(window, spacing, strict=True))
        window = [
            _widened(part, round(side_mm / mm), focus.shape[a])
            for part, mm, a in zip(window, spacing, shown, strict=True)
        ]
    rows, columns = (slice(a, b) for a, b in window)
    return Cut(axis, int(largest[len(largest) // 2]), (rows, columns), spacing)


def _zoom_window(case: Case, focus: np.ndarray, shown: Sequence[int]) -> list[tuple[int, int]]:
    """First and last (exclusive) voxel of the organs with their margin, on the shown axes."""
    organs = focus | (case.label >= LABEL_PANCREAS) if case.label is not None else focus
    window = []
    for a in shown:
        there = np.flatnonzero(organs.any(axis=tuple(b for b in range(3) if b != a)))
        margin = round(ZOOM_MARGIN_MM / case.spacing[a])
        start, stop = int(there[0]) - margin, int(there[-1]) + margin + 1
        window.append((max(start, 0), min(stop, organs.shape[a])))
    return window


def _widened(part: tuple[int, int], length: int, limit: int) -> tuple[int, int]:
    """An interval of `length` around the middle of `part`, moved and cut to lie in 0..limit."""
    start = (part[0] + part[1] - length) // 2
    start = max(min(start, limit - length), 0)
    return start, min(start + length, limit)


def draw_panel(
    axis: Axes,
    case: Case,
    cut: Cut,
    outlines: Sequence[Outline],
    *,
    linewidth: float = 1.1,
    square: bool = False,
) -> None:
    """One panel: the windowed CT in gray, and contours as vector lines over it.

    `square`: a picture that is not square gets empty margins, so that panels stand in line.
    """
    axis.imshow(gray_picture(case, cut), cmap="gray", vmin=0, vmax=255, interpolation="none")
    for outline in outlines:
        style = RESULT_DASHES if outline.is_result else "solid"
        color = tuple(part / 255 for part in outline.color)
        for points in contour_points(outline.mask, cut):
            axis.plot(*points.T, color=color, linestyle=style, linewidth=linewidth)
    width, height = cut.size
    across, down = (PANEL_PIXELS, PANEL_PIXELS) if square else (width, height)
    axis.set_xlim((width - across) / 2 - 0.5, (width + across) / 2 - 0.5)
    axis.set_ylim((height + down) / 2 - 0.5, (height - down) / 2 - 0.5)
    axis.set_axis_off()


def gray_picture(case: Case, cut: Cut) -> np.ndarray:
    """The CT in the window of Sec. IV-A, uint8 (height, width), with square pixels."""
    import cv2

    low, high = HU_WINDOW
    image = np.clip(cut.take(case.image_hu).astype(np.float32), low, high)
    gray = (255 * (image - low) / (high - low)).astype(np.uint8)
    return cv2.resize(gray, cut.size, interpolation=cv2.INTER_CUBIC)


def contour_points(mask: np.ndarray, cut: Cut) -> list[np.ndarray]:
    """Closed contours of a mask in a picture's pixels, each (n, 2) of x and y."""
    import cv2

    # Smooth enlargement of the 0/1 mask, cut at one half: a contour without stairs.
    shown = cut.take(mask).astype(np.float32)
    enlarged = cv2.resize(shown, cut.size, interpolation=cv2.INTER_LINEAR)
    inside = (enlarged >= 0.5).astype(np.uint8)
    found, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return [np.concatenate([points[:, 0], points[:1, 0]]) for points in found]


def absence_note(pred: np.ndarray | None, cut: Cut) -> str:
    """Why a panel shows no contour of a result; "" where it shows one."""
    if pred is None:
        return "not evaluated"
    if not pred.any():
        return "found nothing"
    return "" if contour_points(pred, cut) else "not in this view"


def write_in_panel(axis: Axes, text: str, *, fontsize: float = 7.0) -> None:
    """A line at a panel's lower edge, white with a dark rim: legible on any gray."""
    from matplotlib import patheffects

    rim = [patheffects.withStroke(linewidth=1.8, foreground="black")]
    axis.text(
        *(0.5, 0.02, text),
        transform=axis.transAxes,
        ha="center",
        va="bottom",
        color="white",
        fontsize=fontsize,
        path_effects=rim,
    )
