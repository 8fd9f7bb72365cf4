"""Measures of masks with a known answer, on a grid of three different spacings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from data.case import Case, Grid
from data.prepare.prepared_case import PrepareSettings, prepare_case
from data.prepare.signature import sign_image
from data.roi import Box
from engine.scan_measures import file_box, longest_axis, trained_before
from tests.volumes import make_pair

SPACING = (2.5, 0.7, 0.9)


def ball(radius_mm: float, shape: tuple[int, int, int]) -> np.ndarray:
    axes = ((np.arange(n) - n // 2) * s for n, s in zip(shape, SPACING, strict=True))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


def test_the_longest_axis_of_a_ball_is_its_diameter() -> None:
    found = longest_axis(ball(20, (21, 71, 61)), SPACING)  # thousands of ends: by the hull
    assert 39 < found <= 40


@pytest.mark.parametrize("seed", range(4))
def test_the_longest_axis_is_that_of_all_pairs(seed: int) -> None:
    mask = np.random.default_rng(seed).random((5, 8, 9)) > 0.9
    points = np.argwhere(mask) * SPACING
    assert longest_axis(mask, SPACING) == pytest.approx(pdist(points).max())


def test_flat_masks_lines_and_single_voxels() -> None:
    mask = np.zeros((3, 1100, 1200), bool)
    mask[1, 3, 4] = True
    assert longest_axis(mask, SPACING) == 0
    mask[1, 3, 4:20] = True
    assert longest_axis(mask, SPACING) == pytest.approx(15 * 0.9)
    mask[1] = True  # one slice: no solid body for a hull in space
    assert longest_axis(mask, SPACING) == pytest.approx(np.hypot(1099 * 0.7, 1199 * 0.9))


def make_case(direction: tuple[float, ...]) -> Case:
    image_hu = make_pair(1)[0]
    z, y, x = image_hu.shape
    grid = Grid((x, y, z), SPACING[::-1], (5.0, 6.0, 7.0), direction)
    return Case("a", "", image_hu, None, SPACING, grid)


def test_a_box_of_the_prepared_grid_in_voxels_of_the_file() -> None:
    same = prepare_case(make_case((1, 0, 0, 0, 1, 0, 0, 0, 1)), PrepareSettings(None))
    box = Box((2, 3, 4), (7, 9, 11))
    assert file_box(box, same) == {"start": [4, 3, 2], "stop": [11, 9, 7]}
    flipped = prepare_case(make_case((-1, 0, 0, 0, -1, 0, 0, 0, 1)), PrepareSettings(None))
    z, y, x = flipped.shape
    assert file_box(box, flipped) == {"start": [x - 11, y - 9, 2], "stop": [x - 4, y - 3, 7]}
    coarse = prepare_case(make_case((1, 0, 0, 0, 1, 0, 0, 0, 1)), PrepareSettings((5.0, 1.4, 1.8)))
    whole = Box((0, 0, 0), coarse.shape)
    assert file_box(whole, coarse) == {"start": [0, 0, 0], "stop": [x, y, z]}
    inner = Box((1, 1, 1), (2, 2, 2))
    assert file_box(inner, coarse) == {"start": [2, 2, 2], "stop": [4, 4, 4]}


def test_a_scan_that_trained_the_stage_is_told() -> None:
    case = make_case((1, 0, 0, 0, 1, 0, 0, 0, 1))
    prepared = prepare_case(case, PrepareSettings(None))
    own = sign_image("H", "patient_7", case.image_hu, SPACING)
    other = sign_image("H", "patient_8", make_pair(2)[0], SPACING)
    (warning,) = trained_before(prepared, "tumor_fine", [other, own])
    assert "H/patient_7, which trained tumor_fine" in warning
    assert trained_before(prepared, "tumor_fine", [other]) == []
    assert trained_before(prepared, "tumor_fine", []) == []
