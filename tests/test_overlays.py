"""Overlays: contours in their colors and places, and no crash where something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data.case import Case, Grid
from reproduce.analysis.overlays import (
    PANCREAS_LABEL,
    PANCREAS_PRED,
    PANEL_PIXELS,
    TUMOR_LABEL,
    TUMOR_PRED,
    Cut,
    Outline,
    choose_cut,
    contour_points,
    draw_overlay,
    draw_panel,
    focus_mask,
    gray_picture,
    label_outlines,
    result_outline,
)

SHAPE, SPACING = (20, 60, 80), (3.0, 1.5, 1.0)
GRID = Grid((80, 60, 20), (1.0, 1.5, 3.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
COLORS = (PANCREAS_LABEL, TUMOR_LABEL, PANCREAS_PRED, TUMOR_PRED)


def box(start: tuple[int, int, int], stop: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


PANCREAS, TUMOR = box((5, 20, 20), (14, 40, 60)), box((8, 28, 40), (12, 36, 52))
NOTHING = np.zeros(SHAPE, bool)


def make_case(labeled: bool = True) -> Case:
    rng = np.random.default_rng(0)
    image_hu = rng.integers(-50, 60, SHAPE).astype(np.int16)
    image_hu[PANCREAS] = 90
    label = PANCREAS.astype(np.uint8) + TUMOR
    return Case("a", "C", image_hu, label if labeled else None, SPACING, GRID)


def drawn(case: Case, cut: Cut, outlines: Sequence[Outline]) -> np.ndarray:
    """The pixels (y, x, 3) of a panel that fills its figure."""
    figure = plt.figure(figsize=(4, 4), dpi=150)
    draw_panel(figure.add_axes((0, 0, 1, 1)), case, cut, outlines)
    assert isinstance(figure.canvas, FigureCanvasAgg)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    plt.close(figure)
    return pixels


def colors_in(panel: np.ndarray) -> set[tuple[int, int, int]]:
    """Which of the four colors a panel (y, x, 3) holds."""
    return {color for color in COLORS if (np.abs(panel - color).max(axis=-1) < 25).sum() > 20}


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_each_contour_has_its_own_color(plane: str) -> None:
    case = make_case()
    cut = choose_cut(case, TUMOR, plane)
    plain = drawn(case, cut, [])
    assert (plain[..., 0] == plain[..., 1]).all()
    assert (plain[..., 1] == plain[..., 2]).all()
    labels = label_outlines(case)
    assert colors_in(drawn(case, cut, labels)) == {PANCREAS_LABEL, TUMOR_LABEL}
    result = result_outline("pancreas_fine", np.roll(PANCREAS, 6, axis=2))
    assert colors_in(drawn(case, cut, [*labels, result])) == {
        *(PANCREAS_LABEL, TUMOR_LABEL, PANCREAS_PRED)
    }
    result = result_outline("tumor_fine", np.roll(TUMOR, 6, axis=2))
    only_tumor = label_outlines(case, ["tumor"])
    assert colors_in(drawn(case, cut, [*only_tumor, result])) == {TUMOR_LABEL, TUMOR_PRED}


def test_a_result_is_dashed_and_a_label_is_not() -> None:
    """In a gray print the colors are gone, and less of a dashed line is."""
    case = make_case()
    cut = choose_cut(case, TUMOR, "axial")
    solid = drawn(case, cut, [Outline(PANCREAS, PANCREAS_PRED)])
    dashed = drawn(case, cut, [Outline(PANCREAS, PANCREAS_PRED, is_result=True)])
    count = [(np.abs(panel - PANCREAS_PRED).max(axis=-1) < 25).sum() for panel in (solid, dashed)]
    assert 0.4 < count[1] / count[0] < 0.85


def test_a_contour_runs_around_its_mask() -> None:
    case = make_case()
    cut = choose_cut(case, TUMOR, "axial")
    # The window is the pancreas and 25 mm (17 and 25 voxels): rows 3 to 57, columns 0 to 80.
    assert cut.size == (round(80 * 480 / 81), round(54 * 1.5 * 480 / 81))
    assert gray_picture(case, cut).shape == cut.size[::-1]
    per_mm = PANEL_PIXELS / 81
    (points,) = contour_points(TUMOR, cut)
    np.testing.assert_array_equal(points[0], points[-1])  # closed
    x, y = points.T
    assert y.min() == pytest.approx((28 - 3) * 1.5 * per_mm, abs=3)
    assert y.max() == pytest.approx((36 - 3) * 1.5 * per_mm, abs=3)
    assert x.min() == pytest.approx(40 * per_mm, abs=3)
    assert x.max() == pytest.approx(52 * per_mm, abs=3)
    assert contour_points(NOTHING, cut) == []


def test_pixels_are_square_and_the_head_is_up() -> None:
    case = make_case()
    case.image_hu[:] = -100
    case.image_hu[-1] = 240  # the slice next to the head
    picture = gray_picture(case, choose_cut(case, PANCREAS, "coronal"))
    height, width = picture.shape
    # Slices 0 to 20 (60 mm) and columns 0 to 80 (80 mm), the pancreas with 25 mm.
    assert height / width == pytest.approx(60 / 80, rel=0.02)
    assert max(height, width) == PANEL_PIXELS
    assert picture[:5].mean() > 200
    assert picture[height // 2 :].max() == 0


def test_without_zoom_the_whole_slice_is_shown_and_a_square_zoom_is_square_in_mm() -> None:
    case = make_case()
    whole = choose_cut(case, TUMOR, "axial", zoom=False)
    assert (whole.index, whole.window) == (10, (slice(0, 60), slice(0, 80)))
    square = choose_cut(case, TUMOR, "axial", square=True)
    assert square.index == whole.index
    # Rows 3 to 57 are 81 mm, columns 0 to 80 are 80 mm: one column more, but there is none.
    assert square.window == (slice(3, 57), slice(0, 80))
    small = box(
        (8, 2, 40), (12, 6, 44)
    )  # 25 mm reach the first row: rows 0 to 23, columns 15 to 69
    case = replace(case, label=2 * small.astype(np.uint8))
    rows, columns = choose_cut(case, small, "axial", square=True).window
    assert (columns.start, columns.stop) == (15, 69)
    assert (rows.start, rows.stop) == (0, 36)  # 54 mm, moved into the slice


def test_the_picture_shows_the_tumor_then_the_pancreas_then_the_last_result() -> None:
    case = make_case()
    pred = box((1, 1, 1), (3, 3, 3))
    np.testing.assert_array_equal(focus_mask(case, [pred]), TUMOR)
    assert case.label is not None
    case.label[TUMOR] = 1
    np.testing.assert_array_equal(focus_mask(case, [pred]), PANCREAS)
    np.testing.assert_array_equal(focus_mask(make_case(labeled=False), [PANCREAS, pred]), pred)
    np.testing.assert_array_equal(focus_mask(make_case(labeled=False), [pred, NOTHING]), pred)
    assert focus_mask(make_case(labeled=False), [NOTHING]).all()


def test_where_nothing_is_found_the_middle_of_the_volume_is_shown() -> None:
    case = make_case(labeled=False)
    case.image_hu[:] = -100
    case.image_hu[10] = 240
    cut = choose_cut(case, focus_mask(case, [NOTHING]), "axial")
    assert gray_picture(case, cut).min() == 255
    assert contour_points(NOTHING, cut) == []


STAGES = ("pancreas_coarse", "pancreas_fine", "tumor_coarse", "tumor_fine")


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("found", [True, False])
def test_the_picture_is_written_whatever_is_missing(
    labeled: bool, found: bool, tmp_path: Path
) -> None:
    masks = {name: TUMOR if name.startswith("tumor") else PANCREAS for name in STAGES}
    preds = {name: mask if found else NOTHING for name, mask in masks.items()}
    path = tmp_path / "new folder" / "a.png"
    draw_overlay(path, make_case(labeled), preds)
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[1] > picture.shape[0] > 400  # six panels beside each other, in two rows
    rgb = picture[..., ::-1].astype(int)

    def there(color: tuple[int, int, int]) -> bool:
        return bool((np.abs(rgb - color).max(axis=-1) < 60).sum() > 20)

    assert there(PANCREAS_PRED) == there(TUMOR_PRED) == found
    assert there(PANCREAS_LABEL) == there(TUMOR_LABEL) == labeled
