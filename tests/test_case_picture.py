"""The picture of a warned case: through its tumor, in millimeters, head up."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from data.case import Case, Grid
from data.quality import case_picture
from data.quality.case_picture import draw_case

SHAPE = (10, 30, 40)
GRID = Grid((40, 30, 10), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def make_case(label: np.ndarray | None) -> Case:
    image_hu = np.full(SHAPE, 40, np.int16)
    image_hu[8:] = 300  # the head's end is bright
    return Case("a", "C", image_hu, label, (4.0, 1.0, 1.0), GRID)


def test_the_slices_pass_the_middle_of_the_tumor_else_of_the_label_else_of_the_image() -> None:
    label = np.zeros(SHAPE, np.uint8)
    assert case_picture._middle(make_case(None)) == (4, 14, 19)
    assert case_picture._middle(make_case(label)) == (4, 14, 19)
    label[1:4, 2:7, 10:21] = 1
    assert case_picture._middle(make_case(label)) == (2, 4, 15)
    label[3, 6, 20] = 2
    assert case_picture._middle(make_case(label)) == (3, 6, 20)


def test_a_picture_is_drawn_with_every_kind_of_label(tmp_path: Path) -> None:
    full, one = np.ones(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[0, 0, 0] = 2
    for label in (None, full, one):
        path = tmp_path / "below" / "a.png"
        draw_case(make_case(label), ["a warning with $signs_and_{braces", "another " * 40], path)
        assert matplotlib.image.imread(path).std() > 0.1
        path.unlink()


def test_planes_are_in_millimeters_and_the_head_is_above() -> None:
    for axis, size in ((0, (30, 40)), (1, (40, 40)), (2, (40, 30))):
        axes = Figure().subplots()
        case_picture._draw_plane(axes, make_case(None), axis, 3)
        height, width = size
        assert axes.images[0].get_extent() == [0, width, height, 0]  # first row at height 0
        assert axes.get_xlim() == (0, width)
        assert axes.get_ylim() == ((height, 0) if axis == 0 else (0, height))
