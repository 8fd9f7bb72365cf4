"""Grids that a CT can have, and those that are read with a note."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.case import DataError, Grid
from data.readers.geometry import check_grid

PATH = Path("a.nii")


def grid(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    return Grid(size, spacing, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1, 0, 0, 0, 1))


@pytest.mark.parametrize(
    ("size", "spacing"),
    [((512, 512, 300), (0.7, 0.7, 1.0)), ((96, 72, 40), (1.0, 1.0, 1.0)), ((9, 9, 9), (1, 1, 1))],
)
def test_usual_grids_have_no_note(
    size: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    assert check_grid(grid(size, spacing), PATH) == ()


@pytest.mark.parametrize(
    ("size", "spacing", "words"),
    [
        ((512, 512, 300), (0.15, 0.15, 1.0), "voxels of 0.15 x 0.15 x 1 mm are unusual"),
        ((512, 512, 40), (0.7, 0.7, 15.0), "voxels of 0.7 x 0.7 x 15 mm are unusual"),
        ((96, 72, 40), (0.4, 0.4, 0.5), "the whole image has 38 x 29 x 20 mm"),
        ((512, 512, 90), (7.0, 7.0, 10.0), "the whole image has 3584 x 3584 x 900 mm"),
    ],
)
def test_a_size_that_hints_at_a_wrong_unit_is_noted(
    size: tuple[int, int, int], spacing: tuple[float, float, float], words: str
) -> None:
    (note,) = check_grid(grid(size, spacing), PATH)
    assert words in note


@pytest.mark.parametrize("spacing", [(0.07, 0.7, 1.0), (0.7, 0.7, 25.0)])
def test_a_spacing_that_no_ct_has_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match=r"a\.nii: voxels of .* mm are no CT"):
        check_grid(grid((100, 100, 100), spacing), PATH)
