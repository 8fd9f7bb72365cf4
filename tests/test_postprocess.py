"""Components: the largest, and any other larger than half of it."""

from __future__ import annotations

import numpy as np
import pytest

from utils.postprocess import keep_components


def rod(x: int, length: int, shape: tuple[int, int, int] = (5, 12, 9)) -> np.ndarray:
    """A straight component of `length` voxels along y."""
    mask = np.zeros(shape, dtype=bool)
    mask[1, :length, x] = True
    return mask


def test_the_largest_component_stays_alone_when_the_other_is_half_of_it_or_less() -> None:
    for length in (1, 4, 5):
        kept = keep_components(rod(1, 10) | rod(5, length))
        np.testing.assert_array_equal(kept, rod(1, 10))


def test_components_larger_than_half_of_the_largest_stay_too() -> None:
    pred = rod(1, 10) | rod(3, 6) | rod(5, 9) | rod(7, 5)
    np.testing.assert_array_equal(keep_components(pred), rod(1, 10) | rod(3, 6) | rod(5, 9))


def test_components_of_equal_size_all_stay() -> None:
    pred = rod(1, 3) | rod(4, 3) | rod(7, 3)
    np.testing.assert_array_equal(keep_components(pred), pred)


def test_voxels_that_touch_at_a_corner_are_one_component() -> None:
    # Two rods of 4, joined by a corner into one of 8, against one of 4: exactly half, so it goes.
    joined = rod(1, 4)
    joined[2, 4:8, 2] = True
    np.testing.assert_array_equal(keep_components(joined | rod(6, 4)), joined)


def test_empty_full_and_single_voxel_predictions_stay_what_they_are() -> None:
    single = np.zeros((3, 4, 5), dtype=bool)
    single[2, 3, 4] = True
    for pred in (np.zeros_like(single), np.ones_like(single), single):
        np.testing.assert_array_equal(keep_components(pred), pred)


def test_the_prediction_is_not_written_to() -> None:
    pred = rod(1, 10) | rod(5, 2)
    pred.flags.writeable = False
    kept = keep_components(pred)
    assert kept is not pred
    assert kept.dtype == np.bool_


def test_strided_views_are_read_rightly() -> None:
    pred = rod(1, 10) | rod(5, 2)
    wide = np.repeat(pred, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(keep_components(wide), rod(1, 10))
    mirrored = keep_components(pred[::-1, :, ::-1])
    np.testing.assert_array_equal(mirrored, rod(1, 10)[::-1, :, ::-1])


def test_a_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="pred must be a bool array"):
        keep_components(np.zeros((3, 4, 5), dtype=np.float32))
    with pytest.raises(ValueError, match="pred must be a bool array"):
        keep_components(np.zeros((4, 5), dtype=bool))
