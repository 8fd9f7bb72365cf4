"""Boxes: margins, multiples of 8, crop and paste."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data.roi import (
    STRIDE,
    Box,
    bounding_box,
    center_box,
    central_window,
    crop,
    expand_box,
    fixed_box,
    jitter_box,
    largest_move_mm,
    move_middle,
    network_input,
    pad_to_multiple,
    paste,
)

SHAPE = (40, 90, 70)
MARGIN = (5, 25, 25)


def random_box(rng: np.random.Generator, shape: tuple[int, int, int]) -> Box:
    ends = [np.sort(rng.choice(n + 1, 2, replace=False)) for n in shape]
    return Box(tuple(e[0] for e in ends), tuple(e[1] for e in ends))


def random_shape(rng: np.random.Generator) -> tuple[int, int, int]:
    z, y, x = rng.integers(1, 100, 3).tolist()
    return z, y, x


def holds(outer: Box, inner: Box) -> bool:
    below = all(a <= b for a, b in zip(outer.start, inner.start, strict=True))
    return below and all(a >= b for a, b in zip(outer.stop, inner.stop, strict=True))


def test_a_box_is_half_open() -> None:
    box = Box((1, 2, 3), (4, 8, 5))
    assert box.shape == (3, 6, 2)
    assert box.slices == (slice(1, 4), slice(2, 8), slice(3, 5))
    assert box.fits((4, 8, 5))
    assert not box.fits((4, 7, 5))


def test_a_box_of_numpy_integers_is_one_of_plain_integers() -> None:
    rng = np.random.default_rng(0)
    box = random_box(rng, SHAPE)
    assert json.loads(json.dumps([box.start, box.stop])) == [list(box.start), list(box.stop)]
    assert Box(tuple(np.array(box.start)), tuple(np.array(box.stop))) == box


@pytest.mark.parametrize(
    ("start", "stop"), [((0, 0, 0), (1, 0, 1)), ((-1, 0, 0), (1, 1, 1)), ((2, 0, 0), (1, 1, 1))]
)
def test_an_empty_or_negative_box_is_refused(
    start: tuple[int, int, int], stop: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="0 <= start < stop"):
        Box(start, stop)


def test_a_box_of_fractions_or_of_two_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="three whole numbers"):
        Box((0.5, 0, 0), (1, 1, 1))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="three whole numbers"):
        Box((0, 0), (1, 1))  # type: ignore[arg-type]  # wrong on purpose


def test_the_bounding_box_touches_the_mask_on_all_six_sides() -> None:
    mask = np.zeros((5, 6, 7), dtype=bool)
    mask[1, 5, 2] = mask[3, 0, 6] = True
    assert bounding_box(mask) == Box((1, 0, 2), (4, 6, 7))
    assert bounding_box(np.ones((2, 3, 4), dtype=bool)) == Box((0, 0, 0), (2, 3, 4))


def test_an_empty_mask_has_no_bounding_box() -> None:
    assert bounding_box(np.zeros((5, 6, 7), dtype=bool)) is None
    with pytest.raises(ValueError, match=r"must be \(z, y, x\)"):
        bounding_box(np.zeros((6, 7), dtype=bool))


def test_the_center_box_is_in_the_middle_and_no_larger_than_the_volume() -> None:
    assert center_box((40, 90, 71), (40, 32, 16)) == Box((0, 29, 27), (40, 61, 43))
    assert center_box((40, 90, 71), (64, 320, 16)) == Box((0, 0, 27), (40, 90, 43))


def test_the_margin_is_rounded_up_evenly_to_multiples_of_8() -> None:
    # z: 4 + 2 * 5 = 14 -> 16, y: 10 + 2 * 4 = 18 -> 24, x: 8 + 2 * 4 = 16 stays.
    grown = expand_box(Box((20, 40, 30), (24, 50, 38)), (5, 4, 4), SHAPE)
    assert grown == Box((14, 33, 26), (30, 57, 42))


def test_a_box_at_the_edge_is_shifted_inside_and_keeps_its_size() -> None:
    # y: 2 - 25 to 12 + 25 is 60 long, 64 when rounded, from 0 instead of -25.
    grown = expand_box(Box((36, 2, 0), (40, 12, 70)), MARGIN, SHAPE)
    assert grown == Box((24, 0, 0), (40, 64, 70))


def test_a_side_that_the_volume_lacks_is_the_volumes() -> None:
    grown = expand_box(Box((3, 40, 30), (9, 50, 40)), MARGIN, (11, 61, 70))
    assert grown == Box((0, 0, 3), (11, 61, 67))
    assert expand_box(Box((3, 40, 30), (9, 50, 40)), 500, SHAPE) == Box((0, 0, 0), SHAPE)


def test_an_expanded_box_lies_inside_holds_the_box_and_has_allowed_sides() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        shape = random_shape(rng)
        box = random_box(rng, shape)
        margin = tuple(rng.integers(0, 40, 3).tolist())
        multiple = int(rng.choice([1, 8, 16]))
        grown = expand_box(box, margin, shape, multiple)
        assert grown.fits(shape)
        assert holds(grown, box)
        for side, n, inner, m in zip(grown.shape, shape, box.shape, margin, strict=True):
            assert side % multiple == 0 or side == n
            assert side == n or side >= inner + 2 * m


def test_a_jittered_box_lies_inside_and_has_allowed_sides_even_with_negative_margins() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        shape = random_shape(rng)
        box = random_box(rng, shape)
        grown = jitter_box(box, shape, rng)
        assert holds(grown, box)
        cut = jitter_box(box, shape, rng, z_fraction=(-0.5, 0.1), yx_voxels=(-60, 5))
        z, y, x = ((a + b - 1) // 2 for a, b in zip(box.start, box.stop, strict=True))
        assert holds(cut, Box((z, y, x), (z + 1, y + 1, x + 1)))
        for result in (grown, cut):
            assert result.fits(shape)
            assert all(s % 8 == 0 or s == n for s, n in zip(result.shape, shape, strict=True))


def test_the_jitter_reaches_both_ends_of_its_ranges_and_no_further() -> None:
    rng = np.random.default_rng(3)
    box, shape = Box((100, 200, 200), (110, 230, 230)), (200, 512, 512)
    boxes = [
        jitter_box(box, shape, rng, z_fraction=(0.01, 0.08), yx_voxels=(-5, 40), multiple=1)
        for _ in range(1500)
    ]
    low = np.array(box.start) - np.array([b.start for b in boxes])
    high = np.array([b.stop for b in boxes]) - np.array(box.stop)
    for margins in (low, high):
        np.testing.assert_array_equal(margins.min(axis=0), [2, -5, -5])
        np.testing.assert_array_equal(margins.max(axis=0), [16, 40, 40])
    assert (low != high).any(axis=0).all()  # each side has a margin of its own


def test_the_same_seed_gives_the_same_jitter() -> None:
    box = Box((10, 30, 30), (20, 50, 40))
    first, second = (jitter_box(box, SHAPE, np.random.default_rng(4)) for _ in range(2))
    assert first == second


def test_paste_puts_a_crop_back_where_it_was() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        shape = random_shape(rng)
        box = random_box(rng, shape)
        array = rng.integers(1, 100, shape).astype(np.int16)
        pasted = paste(crop(array, box), box, shape)
        assert pasted.dtype == array.dtype
        np.testing.assert_array_equal(pasted[box.slices], array[box.slices])
        assert np.count_nonzero(pasted) == np.prod(box.shape)


def test_a_crop_is_a_view_and_keeps_leading_axes() -> None:
    array = np.zeros((2, *SHAPE), dtype=np.float32)
    box = Box((1, 2, 3), (4, 6, 8))
    view = crop(array, box)
    assert view.shape == (2, 3, 4, 5)
    assert np.shares_memory(view, array)
    assert paste(view + 1, box, SHAPE).sum() == 2 * 3 * 4 * 5


def test_boxes_and_crops_that_do_not_fit_are_refused() -> None:
    outside = Box((0, 0, 0), (41, 90, 70))
    array = np.zeros(SHAPE)
    with pytest.raises(ValueError, match="sticks out"):
        crop(array, outside)
    with pytest.raises(ValueError, match="sticks out"):
        paste(np.zeros(outside.shape), outside, SHAPE)
    with pytest.raises(ValueError, match="sticks out"):
        expand_box(outside, MARGIN, SHAPE)
    with pytest.raises(ValueError, match="sticks out"):
        jitter_box(outside, SHAPE, np.random.default_rng(0))
    with pytest.raises(ValueError, match="does not fill a box"):
        paste(np.zeros((1, 2, 3)), Box((0, 0, 0), (1, 2, 4)), SHAPE)
    with pytest.raises(ValueError, match="must not be negative"):
        expand_box(Box((0, 0, 0), (1, 1, 1)), (5, -1, 5), SHAPE)


def test_padding_fills_up_to_multiples_and_its_box_is_the_original() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        shape = random_shape(rng)
        array = rng.integers(1, 9, shape).astype(np.int16)
        padded, inner = pad_to_multiple(array, (8, 16, 16), value=-100)
        assert padded.dtype == array.dtype
        assert [n % m for n, m in zip(padded.shape, (8, 16, 16), strict=True)] == [0, 0, 0]
        assert all(p - n < m for p, n, m in zip(padded.shape, shape, (8, 16, 16), strict=True))
        np.testing.assert_array_equal(crop(padded, inner), array)
        assert np.count_nonzero(padded == -100) == padded.size - array.size


def test_padding_is_even_on_both_ends() -> None:
    padded, inner = pad_to_multiple(np.ones((2, 5, 8, 11)), 8)
    assert padded.shape == (2, 8, 8, 16)
    assert inner == Box((1, 0, 2), (6, 8, 13))


def test_a_volume_of_multiples_is_not_copied() -> None:
    array = np.zeros((8, 16, 24))
    padded, inner = pad_to_multiple(array, 8)
    assert padded is array
    assert inner == Box((0, 0, 0), (8, 16, 24))


def test_padding_in_front_is_a_multiple_of_the_step() -> None:
    padded, inner = pad_to_multiple(np.ones((2, 5, 8, 11)), 8, step=2)
    assert padded.shape == (2, 8, 8, 16)
    assert inner == Box((0, 0, 2), (5, 8, 13))  # 1 and 0 in front, not 1 and 1; 2 of 5


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_network_sees_every_voxel_of_the_stride_padded_to_its_own_strides(stride: int) -> None:
    rng = np.random.default_rng(8)
    for _ in range(30):
        shape = random_shape(rng)
        box = random_box(rng, shape)
        volume = rng.integers(1, 100, shape).astype(np.int16)
        seen, inner = network_input(volume, box, stride, value=-1)
        assert all(n % STRIDE == 0 for n in seen.shape)
        assert seen.dtype == volume.dtype
        assert not np.shares_memory(seen, volume)
        assert all(start % stride == 0 for start in inner.start)
        kept = tuple(
            slice(a // stride, -(-b // stride))
            for a, b in zip(inner.start, inner.stop, strict=True)
        )
        np.testing.assert_array_equal(seen[kept], crop(volume, box)[::stride, ::stride, ::stride])
        assert (seen == -1).sum() == seen.size - seen[kept].size


def test_the_central_window_of_a_subsampled_stage_keeps_the_volumes_even_voxels() -> None:
    for shape in ((20, 41, 47), (21, 40, 46), (17, 39, 51)):
        window = central_window(shape, (32, 30), stride=2)
        assert window.shape == (shape[0], 32, 30)
        for volume in np.indices(shape):
            seen, _ = network_input(volume, window, stride=2, value=-1)
            assert (seen[seen >= 0] % 2 == 0).all()
        middle = center_box(shape, (shape[0], 32, 30))
        assert all(0 <= m - w < 2 for m, w in zip(middle.start, window.start, strict=True))


def test_a_fixed_crop_has_one_size_around_every_middle() -> None:
    size, spacing, shape = (56.0, 88.0, 88.0), (3.5, 2.8, 2.8), (60, 90, 90)
    small, large = Box((28, 43, 43), (32, 47, 47)), Box((24, 40, 35), (36, 50, 55))
    # 56 mm are 16 slices; 88 mm are 31.4 voxels, 32 of them.
    assert fixed_box(small, size, spacing, shape) == Box((22, 29, 29), (38, 61, 61))
    assert fixed_box(large, size, spacing, shape) == fixed_box(small, size, spacing, shape)
    moved = fixed_box(small, size, spacing, shape, shift_mm=(7.0, -5.6, 0.0))
    assert moved == Box((24, 27, 29), (40, 59, 61))


def test_a_fixed_crop_holds_a_longer_box_and_stays_in_the_volume() -> None:
    box = Box((0, 40, 3), (10, 47, 50))
    crop_ = fixed_box(box, (8.0, 8.0, 8.0), (1.0, 1.0, 1.0), (60, 90, 90))
    assert crop_ == Box((0, 39, 3), (16, 47, 51))
    with pytest.raises(ValueError, match="sticks out"):
        fixed_box(box, (8.0, 8.0, 8.0), (1.0, 1.0, 1.0), (5, 90, 90))


def test_a_middle_moves_no_further_than_it_must() -> None:
    within, shape = Box((10, 10, 10), (20, 20, 20)), (40, 40, 40)
    there = Box((8, 11, 6), (16, 19, 38))  # middle voxels 12, 15, 22
    assert move_middle(there, within, shape) == Box((8, 11, 3), (16, 19, 35))
    assert move_middle(Box((0, 0, 0), (4, 4, 40)), within, shape) == Box((8, 8, 0), (12, 12, 40))


def test_a_move_is_that_of_the_side_that_moves_most_in_mm() -> None:
    before, after = Box((2, 2, 2), (9, 9, 9)), Box((3, 2, 2), (9, 9, 13))
    assert largest_move_mm(before, after, (3.0, 1.0, 0.5)) == 3.0
    assert largest_move_mm(before, before, (3.0, 1.0, 0.5)) == 0.0
