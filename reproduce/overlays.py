"""Overlays: the CT with the label's and each stage's contours, as in Fig. 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from data.case import LABEL_PANCREAS, LABEL_TUMOR, Case
from data.dataset import HU_WINDOW

# Fig. 5's colors, RGB: labels in red (tumor) and green (pancreas), results in blue and yellow.
TUMOR_LABEL, PANCREAS_LABEL = (255, 0, 0), (0, 200, 0)
TUMOR_PRED, PANCREAS_PRED = (60, 120, 255), (255, 220, 0)
ZOOM_MARGIN_MM = 25.0
PANEL_PIXELS = 480


def draw_overlay(path: Path, case: Case, preds: Mapping[str, np.ndarray]) -> None:
    """Write a PNG: a row per plane (axial, coronal), a panel for the CT and for each stage.

    `preds`: stage name -> bool mask (z, y, x) on the case's grid. The planes go where the label's
    tumor is largest, else its pancreas, else the last mask that is not empty.
    """
    focus = focus_mask(case, list(preds.values()))
    panels: dict[str, dict[str, np.ndarray]] = {"CT": {}, "label": {}}
    panels |= {name: {name: pred} for name, pred in preds.items()}
    figure, axes = plt.subplots(2, len(panels), figsize=(3.0 * len(panels), 6.4), squeeze=False)
    for row, plane in enumerate(("axial", "coronal")):
        for column, (title, masks) in enumerate(panels.items()):
            axis = axes[row][column]
            axis.imshow(draw_panel(case, masks, focus, plane, with_label=title != "CT"))
            axis.set_axis_off()
            axis.set_title(title.replace("_", " ") if row == 0 else plane, fontsize=10)
    figure.suptitle(
        f"{case.center} {case.case_id}   label: tumor red, pancreas green; "
        "result: tumor blue, pancreas yellow",
        fontsize=10,
    )
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def focus_mask(case: Case, preds: Sequence[np.ndarray]) -> np.ndarray:
    """What the picture is centered on; the whole volume where there is nothing."""
    choices = []
    if case.label is not None:
        choices = [case.label == LABEL_TUMOR, case.label >= LABEL_PANCREAS]
    choices += list(reversed(preds))
    return next((mask for mask in choices if mask.any()), np.ones_like(case.image_hu, bool))


def draw_panel(
    case: Case, masks: Mapping[str, np.ndarray], focus: np.ndarray, plane: str, *, with_label: bool
) -> np.ndarray:
    """One RGB panel, uint8, zoomed to the organs, with isotropic pixels."""
    axis = {"axial": 0, "coronal": 1}[plane]
    areas = focus.sum(axis=tuple(a for a in range(3) if a != axis))
    largest = np.flatnonzero(areas == areas.max())
    index = int(largest[len(largest) // 2])
    window = zoom_window(case, focus, axis)

    def cut(volume: np.ndarray) -> np.ndarray:
        plane_array = np.take(volume, index, axis=axis)[window]
        return np.asarray(plane_array[::-1] if plane == "coronal" else plane_array)  # head up

    heights = [case.spacing[a] for a in range(3) if a != axis]
    image = cut(case.image_hu).astype(np.float32)
    low, high = HU_WINDOW
    gray = (255 * (np.clip(image, low, high) - low) / (high - low)).astype(np.uint8)
    height_mm, width_mm = (n * mm for n, mm in zip(gray.shape, heights, strict=True))
    scale = PANEL_PIXELS / max(height_mm, width_mm)
    size = (max(round(width_mm * scale), 1), max(round(height_mm * scale), 1))
    canvas = cv2.cvtColor(cv2.resize(gray, size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    outlines: list[tuple[np.ndarray, tuple[int, int, int]]] = []
    if with_label and case.label is not None:
        outlines.append((case.label >= LABEL_PANCREAS, PANCREAS_LABEL))
        outlines.append((case.label == LABEL_TUMOR, TUMOR_LABEL))
    for name, mask in masks.items():
        outlines.append((mask, TUMOR_PRED if name.startswith("tumor") else PANCREAS_PRED))
    for mask, color in outlines:
        # Smooth enlargement of the 0/1 mask, cut at one half: a contour without stairs.
        enlarged = cv2.resize(cut(mask).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        inside = (enlarged >= 0.5).astype(np.uint8)
        found, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, found, -1, color, 2, cv2.LINE_AA)
    return canvas


def zoom_window(case: Case, focus: np.ndarray, axis: int) -> tuple[slice, slice]:
    """The part of the plane that holds the organs, with a margin."""
    shown = focus.copy()
    if case.label is not None:
        shown |= case.label >= LABEL_PANCREAS
    slices = []
    for a in (a for a in range(3) if a != axis):
        there = np.flatnonzero(shown.any(axis=tuple(b for b in range(3) if b != a)))
        margin = round(ZOOM_MARGIN_MM / case.spacing[a])
        slices.append(slice(max(there[0] - margin, 0), there[-1] + margin + 1))
    return slices[0], slices[1]
