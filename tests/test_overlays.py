"""Overlays: contours in their colors and places, and no crash where something is missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.case import Case, Grid
from reproduce.overlays import (
    PANCREAS_LABEL,
    PANCREAS_PRED,
    PANEL_PIXELS,
    TUMOR_LABEL,
    TUMOR_PRED,
    draw_overlay,
    draw_panel,
    focus_mask,
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


def colors_in(panel: np.ndarray) -> set[tuple[int, int, int]]:
    """Which of the four colors a panel (y, x, 3) holds."""
    return {color for color in COLORS if (panel == color).all(axis=-1).any()}


def is_gray(panel: np.ndarray) -> bool:
    return bool((panel[..., 0] == panel[..., 1]).all() and (panel[..., 1] == panel[..., 2]).all())


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_each_contour_has_its_own_color(plane: str) -> None:
    case = make_case()
    plain = draw_panel(case, {}, TUMOR, plane, with_label=False)
    assert plain.dtype == np.uint8
    assert is_gray(plain)
    label = draw_panel(case, {}, TUMOR, plane, with_label=True)
    assert colors_in(label) == {PANCREAS_LABEL, TUMOR_LABEL}
    moved = np.roll(PANCREAS, 6, axis=2)
    fine = draw_panel(case, {"pancreas_fine": moved}, TUMOR, plane, with_label=True)
    assert colors_in(fine) == {PANCREAS_LABEL, TUMOR_LABEL, PANCREAS_PRED}
    moved = np.roll(TUMOR, 6, axis=2)
    fine = draw_panel(case, {"tumor_fine": moved}, TUMOR, plane, with_label=True)
    assert colors_in(fine) == {PANCREAS_LABEL, TUMOR_LABEL, TUMOR_PRED}


def test_a_contour_runs_around_its_mask() -> None:
    panel = draw_panel(make_case(), {}, TUMOR, "axial", with_label=True)
    # The window is the pancreas and 25 mm (17 and 25 voxels): rows 3 to 57, columns 0 to 80.
    assert panel.shape == (round(54 * 1.5 * 480 / 81), round(80 * 480 / 81), 3)
    per_mm = PANEL_PIXELS / 81
    rows, columns = np.nonzero((panel == TUMOR_LABEL).all(axis=-1))
    assert rows.min() == pytest.approx((28 - 3) * 1.5 * per_mm, abs=3)
    assert rows.max() == pytest.approx((36 - 3) * 1.5 * per_mm, abs=3)
    assert columns.min() == pytest.approx(40 * per_mm, abs=3)
    assert columns.max() == pytest.approx(52 * per_mm, abs=3)


def test_pixels_are_square_and_the_head_is_up() -> None:
    case = make_case()
    case.image_hu[:] = -100
    case.image_hu[-1] = 240  # the slice next to the head
    panel = draw_panel(case, {}, PANCREAS, "coronal", with_label=False)
    height, width = panel.shape[:2]
    # Slices 0 to 20 (60 mm) and columns 0 to 80 (80 mm), the pancreas with 25 mm.
    assert height / width == pytest.approx(60 / 80, rel=0.02)
    assert max(height, width) == PANEL_PIXELS
    assert panel[:5].mean() > 200
    assert panel[height // 2 :].max() == 0


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
    panel = draw_panel(case, {"x": NOTHING}, focus_mask(case, [NOTHING]), "axial", with_label=True)
    assert panel.min() == 255


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
        return bool((np.abs(rgb - color).max(axis=-1) < 40).sum() > 20)

    assert there(PANCREAS_PRED) == there(TUMOR_PRED) == found
    assert there(PANCREAS_LABEL) == there(TUMOR_LABEL) == labeled
