"""Metrics against answers worked out by hand and against medpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from utils import metrics
from utils.metrics import (
    asd,
    centroid_distance,
    crop_to_both,
    dsc,
    hd95,
    hd95_max,
    precision,
    recall,
    surface_metrics,
)

SPACING = (1.5, 0.8, 0.8)
SPACINGS = [SPACING, (0.7, 0.7, 0.7), (5.0, 0.6, 0.9), (1.0, 2.5, 1.0), (0.8, 0.8, 3.0)]


def empty(shape: tuple[int, int, int] = (9, 10, 11)) -> np.ndarray:
    return np.zeros(shape, dtype=bool)


def voxel(z: int, y: int, x: int) -> np.ndarray:
    mask = empty()
    mask[z, y, x] = True
    return mask


def noise(seed: int, density: float, shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < density


def blob(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return field > np.quantile(field, 0.8)


def assert_equals_medpy(
    pred: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]
) -> None:
    found = surface_metrics(pred, mask, spacing)
    assert found.asd_mm == pytest.approx(binary.assd(pred, mask, spacing), abs=1e-5)
    assert found.hd95_mm == pytest.approx(binary.hd95(pred, mask, spacing), abs=1e-5)


def test_dsc_of_two_of_three_voxels_is_eighty_percent() -> None:
    mask = empty()
    mask[1, 1, 1:4] = True
    pred = empty()
    pred[1, 1, 1:3] = True
    assert dsc(pred, mask) == pytest.approx(80.0)
    assert recall(pred, mask) == pytest.approx(2 / 3)
    assert precision(pred, mask) == 1.0
    assert recall(mask, pred) == 1.0
    assert precision(mask, pred) == pytest.approx(2 / 3)
    assert dsc(mask, mask) == 100.0
    assert dsc(mask, ~mask) == 0.0


def test_overlap_equals_medpy_on_random_masks() -> None:
    for seed in range(5):
        pred, mask = noise(seed, 0.3, (7, 8, 9)), noise(seed + 100, 0.5, (7, 8, 9))
        assert dsc(pred, mask) == pytest.approx(100 * binary.dc(pred, mask))
        assert recall(pred, mask) == pytest.approx(binary.recall(pred, mask))
        assert precision(pred, mask) == pytest.approx(binary.precision(pred, mask))


def test_hd95_of_a_two_slice_shift_is_two_slice_thicknesses() -> None:
    mask, pred = voxel(2, 4, 4), voxel(4, 4, 4)
    found = surface_metrics(pred, mask, SPACING)
    assert (found.asd_mm, found.hd95_mm, found.hd95_max_mm) == pytest.approx((3.0, 3.0, 3.0))


def test_a_far_voxel_is_measured_along_the_diagonal_in_mm() -> None:
    distance = math.hypot(8 * 1.5, 9 * 0.8, 10 * 0.8)
    assert asd(voxel(0, 0, 0), voxel(8, 9, 10), SPACING) == pytest.approx(distance, abs=1e-12)
    assert hd95(voxel(0, 9, 0), voxel(8, 0, 10), SPACING) == pytest.approx(distance, abs=1e-12)
    centroids = centroid_distance(voxel(0, 0, 0), voxel(8, 9, 10), SPACING)
    assert centroids == pytest.approx(distance, abs=1e-12)


def test_asd_pools_the_two_directed_sets_and_does_not_average_their_means() -> None:
    # One voxel against three in a row: 1 distance of 0 there; 0, 0.8 and 1.6 back.
    mask, pred = voxel(2, 4, 4), empty()
    pred[2, 4, 4:7] = True
    assert asd(pred, mask, SPACING) == pytest.approx(2.4 / 4)


def test_hd95_pools_both_directions_and_hd95_max_does_not() -> None:
    # There: 1 distance of 0. Back: 0 and 8; its percentile is 7.6, the pooled one's 0, 0, 8 is 7.2.
    mask, pred = voxel(0, 0, 0), voxel(0, 0, 0) | voxel(0, 0, 10)
    assert hd95(pred, mask, SPACING) == pytest.approx(7.2)
    assert hd95_max(pred, mask, SPACING) == pytest.approx(7.6)
    assert hd95_max(mask, pred, SPACING) == pytest.approx(7.6)


def test_a_hidden_inside_is_no_surface_but_the_edge_of_the_volume_is() -> None:
    full = np.ones((3, 3, 3), dtype=bool)
    hollow = full.copy()
    hollow[1, 1, 1] = False
    # The solid cube's 26 surface voxels are the hollow cube's: only its center would differ.
    assert surface_metrics(full, hollow, SPACING) == metrics.SurfaceMetrics(0.0, 0.0, 0.0)
    assert dsc(full, hollow) == pytest.approx(200 * 26 / 53)


def test_a_mask_against_itself_is_at_distance_zero() -> None:
    for mask in (blob(0, (9, 10, 11)), np.ones((4, 5, 6), dtype=bool), voxel(8, 9, 10)):
        assert surface_metrics(mask, mask, SPACING) == metrics.SurfaceMetrics(0.0, 0.0, 0.0)
        assert centroid_distance(mask, mask, SPACING) == 0.0


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("density", [0.002, 0.02, 0.3, 0.9])
def test_surface_distances_equal_medpy_on_scattered_masks(
    spacing: tuple[float, float, float], density: float
) -> None:
    shape = (13, 21, 34)
    for seed in range(3):
        pred = noise(seed, density, shape)
        mask = noise(seed + 50, 0.1, shape)
        pred[0, 0, 0] = mask[-1, -1, -1] = True  # both touch the border
        assert_equals_medpy(pred, mask, spacing)
        assert_equals_medpy(mask, pred, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_surface_distances_equal_medpy_on_blobs_single_voxels_and_full_volumes(
    spacing: tuple[float, float, float],
) -> None:
    shape = (17, 24, 15)
    full, one = np.ones(shape, dtype=bool), empty(shape)
    one[16, 0, 7] = True
    masks = [blob(1, shape), blob(2, shape), full, one]
    for pred in masks:
        for mask in masks:
            assert_equals_medpy(pred, mask, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("way", ["planes", "tree", "volume"])
def test_every_way_of_finding_far_voxels_equals_medpy(
    way: str, spacing: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = {"planes": "PLANE_SECONDS_PER_VOXEL", "volume": "VOLUME_SECONDS_PER_VOXEL"}
    for name, constant in costs.items():
        monkeypatch.setattr(metrics, constant, -1.0 if name == way else math.inf)
    if way == "volume":
        monkeypatch.setattr(metrics, "_square_planes", lambda spacing: None)
    shape = (20, 30, 25)
    pred, mask = noise(3, 0.01, shape), empty(shape)
    mask[3:6, 20:24, 5:9] = True
    assert_equals_medpy(pred, mask, spacing)
    assert_equals_medpy(mask, pred, spacing)


def test_the_larger_directed_percentile_equals_scipys_transforms() -> None:
    pred, mask = blob(4, (12, 14, 16)), noise(5, 0.01, (12, 14, 16))
    directed = []
    for source, target in ((pred, mask), (mask, pred)):
        rims = [m & ~ndimage.binary_erosion(m) for m in (source, target)]
        distance = ndimage.distance_transform_edt(~rims[1], sampling=SPACING)
        directed.append(np.percentile(distance[rims[0]], 95))
    assert directed[0] != pytest.approx(directed[1])
    assert hd95_max(pred, mask, SPACING) == pytest.approx(max(directed), abs=1e-9)


def test_the_masks_may_be_swapped_and_are_left_alone() -> None:
    pred, mask = blob(6, (12, 14, 16)), blob(7, (12, 14, 16))
    pred.flags.writeable = mask.flags.writeable = False
    there, back = surface_metrics(pred, mask, SPACING), surface_metrics(mask, pred, SPACING)
    assert there.asd_mm == pytest.approx(back.asd_mm)
    assert there.hd95_mm == pytest.approx(back.hd95_mm)
    assert there.hd95_max_mm == pytest.approx(back.hd95_max_mm)


def test_strided_and_fortran_ordered_masks_give_the_same_distances() -> None:
    pred, mask = blob(8, (12, 14, 16)), blob(9, (12, 14, 16))
    expected = surface_metrics(pred, mask, SPACING)
    assert surface_metrics(np.asfortranarray(pred), mask, SPACING) == expected
    wide = np.repeat(mask, 2, axis=2)[:, :, ::2]
    assert surface_metrics(pred, wide, SPACING) == expected


def test_metrics_of_the_crop_around_both_masks_are_those_of_the_volume() -> None:
    pred, mask = empty((30, 40, 50)), empty((30, 40, 50))
    pred[5:14, 20:30, 7:18], mask[8:20, 18:28, 9:20] = blob(1, (9, 10, 11)), blob(2, (12, 10, 11))
    crops = crop_to_both(pred, mask)
    z, y, x = np.nonzero(pred | mask)
    assert crops[0].shape == crops[1].shape == (np.ptp(z) + 1, np.ptp(y) + 1, np.ptp(x) + 1)
    assert all(
        np.shares_memory(crop, whole) for crop, whole in zip(crops, (pred, mask), strict=True)
    )
    for metric in (dsc, recall, precision):
        assert metric(*crops) == metric(pred, mask)
    assert surface_metrics(*crops, SPACING) == surface_metrics(pred, mask, SPACING)
    assert centroid_distance(*crops, SPACING) == pytest.approx(
        centroid_distance(pred, mask, SPACING), abs=1e-12
    )
    assert [crop.size for crop in crop_to_both(empty(), empty())] == [0, 0]
    with pytest.raises(ValueError, match="differ in shape"):
        crop_to_both(pred, empty())


@pytest.mark.parametrize("both", [False, True])
def test_an_empty_mask_has_the_protocols_numbers(both: bool) -> None:
    other = empty() if both else voxel(4, 4, 4)
    for pred, mask in ((empty(), other), (other, empty())):
        assert dsc(pred, mask) == 0.0
        assert asd(pred, mask, SPACING) == 40.0
        assert hd95(pred, mask, SPACING) == 100.0
        assert hd95_max(pred, mask, SPACING) == 100.0
        assert recall(pred, mask) == 0.0
        assert precision(pred, mask) == 0.0
        assert math.isnan(centroid_distance(pred, mask, SPACING))


def test_the_centroid_is_the_mean_voxel_not_the_middle_of_the_box() -> None:
    pred = voxel(0, 0, 0) | voxel(0, 0, 1) | voxel(0, 0, 10)
    expected = abs(11 / 3 - 5) * 0.8
    assert centroid_distance(pred, voxel(0, 0, 5), SPACING) == pytest.approx(expected)


OVERLAPS = [dsc, recall, precision]


@pytest.mark.parametrize("metric", OVERLAPS)
def test_masks_that_are_not_bool_or_not_alike_are_refused(
    metric: Callable[[np.ndarray, np.ndarray], float],
) -> None:
    with pytest.raises(ValueError, match="pred must be a bool array"):
        metric(empty().astype(np.uint8), empty())
    with pytest.raises(ValueError, match="mask must be a bool array"):
        metric(empty(), empty()[0])
    with pytest.raises(ValueError, match="differ in shape"):
        metric(empty(), empty((9, 10, 12)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0)])
def test_a_spacing_that_is_not_three_lengths_is_refused(spacing: tuple[float, ...]) -> None:
    for metric in (surface_metrics, centroid_distance):
        with pytest.raises(ValueError, match="three positive lengths"):
            metric(voxel(1, 1, 1), voxel(1, 1, 1), spacing)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="mask must be a bool array"):
        surface_metrics(empty(), empty().astype(float), SPACING)


def test_many_false_voxels_far_from_a_lesion_equal_medpy() -> None:
    shape = (32, 96, 96)
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    radius = np.sqrt(
        sum(((a - c) / r) ** 2 for a, c, r in zip(axes, (15, 42, 51), (5, 9, 10), strict=True))
    )
    lesion = radius < 1
    scattered = (radius < 1.1) | noise(10, 0.01, shape)
    assert_equals_medpy(scattered, lesion, SPACING)
