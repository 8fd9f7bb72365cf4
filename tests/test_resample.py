"""Resampling: voxels stay where they are in the world, values stay what they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import data.prepare.resample as resample
from data.prepare.resample import (
    axis_weights,
    grid_weights,
    output_shape,
    resample_float,
    resample_image,
    resample_mask,
)

SHAPE, SPACING = (20, 24, 27), (2.5, 0.7, 0.9)
NEW_SPACING = (1.5, 0.8, 0.8)


def centers_mm(shape: tuple[int, ...], spacing: tuple[float, ...]) -> list[np.ndarray]:
    """Voxel centers along each axis, mm from the middle of the volume."""
    return [(np.arange(n) + 0.5 - n / 2) * s for n, s in zip(shape, spacing, strict=True)]


def ramp(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    z, y, x = np.meshgrid(*centers_mm(shape, spacing), indexing="ij")
    return 300 + 3 * z - 5 * y + 7 * x


def interior(shape: tuple[int, ...], spacing: tuple[float, ...], margin: float) -> np.ndarray:
    """Voxels whose center lies `margin` mm inside of what SHAPE covers."""
    inside = np.ones(shape, bool)
    for axis, mm in enumerate(centers_mm(shape, spacing)):
        half = SHAPE[axis] * SPACING[axis] / 2 - margin
        view = [1, 1, 1]
        view[axis] = -1
        inside &= (np.abs(mm) <= half).reshape(view)
    return inside


@pytest.mark.parametrize("new", [NEW_SPACING, (3.7, 1.9, 2.1), (0.9, 0.35, 0.41)])
def test_a_ramp_in_mm_is_the_same_ramp_on_the_new_grid(new: tuple[float, float, float]) -> None:
    shape = output_shape(SHAPE, SPACING, new)
    weights = grid_weights(SHAPE, SPACING, shape, new)
    inside = interior(shape, new, max(*SPACING, *new))
    assert inside.sum() > 20
    found = resample_float(ramp(SHAPE, SPACING), weights)
    np.testing.assert_allclose(found[inside], ramp(shape, new)[inside], atol=2e-3)
    image_hu = resample_image(np.rint(10 * ramp(SHAPE, SPACING)).astype(np.int16), weights)
    assert np.abs(image_hu - 10 * ramp(shape, new))[inside].max() <= 1.0


def test_the_new_grid_covers_what_the_old_one_covers() -> None:
    shape = output_shape(SHAPE, SPACING, NEW_SPACING)
    assert shape == (33, 21, 30)  # 50 mm / 1.5, 16.8 mm / 0.8, 24.3 mm / 0.8
    assert output_shape((1, 2, 3), (0.1, 0.1, 0.1), (5.0, 5.0, 5.0)) == (1, 1, 1)


def test_the_same_spacing_changes_nothing() -> None:
    image_hu = np.random.default_rng(0).integers(-1024, 3071, SHAPE).astype(np.int16)
    weights = grid_weights(SHAPE, SPACING, SHAPE, SPACING)
    np.testing.assert_array_equal(resample_image(image_hu, weights), image_hu)


@pytest.mark.parametrize(("n_in", "n_out", "step"), [(7, 9, 0.8), (40, 3, 13.0), (1, 1, 9.0)])
def test_every_output_voxel_is_a_mean(n_in: int, n_out: int, step: float) -> None:
    weights = axis_weights(n_in, 1.0, n_out, step).toarray()
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("apart", [1e-6, 1e-7, 1e-8, 1e-9, 1e-12])
@pytest.mark.parametrize("step", [1.0, 0.5, 1 / 3])
def test_spacings_that_differ_by_rounding_leave_no_voxel_without_a_value(
    apart: float, step: float
) -> None:
    weights = axis_weights(20, 1.0 + apart, 15, step).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_thin_slices_are_averaged_and_do_not_alias() -> None:
    stripes = np.zeros((40, 4, 4), np.int16)
    stripes[::2] = 1000
    weights = grid_weights(stripes.shape, (0.5, 1, 1), (10, 4, 4), (2.0, 1, 1))
    coarse = resample_image(stripes, weights)
    assert np.abs(coarse[1:-1] - 500).max() <= 1


def test_a_mask_keeps_its_volume_and_centroid() -> None:
    z, y, x = np.meshgrid(*centers_mm((40, 60, 60), (2.5, 0.7, 0.7)), indexing="ij")
    ball = (z - 4) ** 2 + (y + 3) ** 2 + (x - 2) ** 2 <= 15**2
    shape = output_shape(ball.shape, (2.5, 0.7, 0.7), NEW_SPACING)
    found = resample_mask(ball, grid_weights(ball.shape, (2.5, 0.7, 0.7), shape, NEW_SPACING))
    volume_mm3 = np.count_nonzero(found) * np.prod(NEW_SPACING)
    assert volume_mm3 == pytest.approx(np.count_nonzero(ball) * 2.5 * 0.7 * 0.7, rel=0.02)
    axes_mm = centers_mm(shape, NEW_SPACING)
    centroid = [mm[index].mean() for mm, index in zip(axes_mm, found.nonzero(), strict=True)]
    assert centroid == pytest.approx([4, -3, 2], abs=0.15)


def test_a_lesion_of_one_voxel_does_not_vanish() -> None:
    mask = np.zeros((30, 30, 30), bool)
    mask[11, 7, 20] = True
    found = resample_mask(mask, grid_weights(mask.shape, (0.5,) * 3, (5, 5, 5), (3.0,) * 3))
    assert found.sum() == 1
    assert found[1, 1, 3]


def test_an_empty_mask_stays_empty() -> None:
    weights = grid_weights((6, 6, 6), (1.0,) * 3, (3, 3, 3), (2.0,) * 3)
    assert not resample_mask(np.zeros((6, 6, 6), bool), weights).any()


@pytest.mark.parametrize("at_once", [1, 300, 20_000])
@pytest.mark.parametrize("new", [NEW_SPACING, (7.0, 1.9, 2.1)])
def test_some_slices_at_a_time_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, at_once: int, new: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(1)
    image_hu = rng.integers(-1024, 3071, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, bool)
    mask[5:12, 6:20, 3:] = rng.random((7, 14, 24)) > 0.4
    weights = grid_weights(SHAPE, SPACING, output_shape(SHAPE, SPACING, new), new)

    def all_of_it() -> list[np.ndarray]:
        return [
            resample_image(image_hu, weights),
            resample_float(mask, weights),
            resample_mask(mask, weights),
        ]

    whole = all_of_it()
    monkeypatch.setattr(resample, "_VOXELS_AT_ONCE", at_once)
    parts = all_of_it()
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    places = [place for place, _ in resample.resample_parts(mask, weights)]
    assert (len(places) > 1) == (at_once < 20_000)
    assert all(a[0].stop == b[0].start for a, b in itertools.pairwise(places))
