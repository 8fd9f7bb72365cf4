"""`utils/boxes.py`: the box around what is not zero, in any memory order and type."""

from __future__ import annotations

import numpy as np
import pytest

from utils.boxes import filled_box

SHAPE = (5, 7, 9)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_the_box_is_from_the_first_to_the_last_filled_index_of_each_axis(
    dtype: type, order: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 100):
        volume = np.zeros(np.array(SHAPE)[list(order)], dtype).transpose(np.argsort(order))
        places = [rng.integers(0, n, count) for n in SHAPE]
        volume[tuple(places)] = -2 if dtype in (np.int16, np.float32) else 2
        expected = tuple(slice(int(p.min()), int(p.max()) + 1) for p in places)
        assert filled_box(volume) == expected
        turned = filled_box(volume[::-1, :, ::-1])
        assert turned is not None
        assert turned[1] == expected[1]


def test_a_volume_of_zeros_and_one_without_voxels_have_no_box() -> None:
    assert filled_box(np.zeros(SHAPE)) is None
    assert filled_box(np.zeros((0, 3, 4), bool)) is None
    assert filled_box(np.zeros((3, 0, 4), bool)) is None


def test_a_crop_of_a_larger_array_is_read_alone() -> None:
    volume = np.ones((6, 6, 6), bool)
    volume[1:5, 1:5, 1:5] = False
    volume[3, 2, 4] = True
    assert filled_box(volume[1:5, 1:5, 1:5]) == (slice(2, 3), slice(1, 2), slice(3, 4))
