"""The check of labels: a label in the wrong place is warned, one in the right place is not."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from data.phantom.generate import Phantom, make_phantom
from data.quality.label_check import (
    average_blocks,
    check_image,
    check_label,
    check_lesions,
    measure_fit,
    slice_differences,
)

SPACING = (3.0, 2.0, 1.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom("SYN-A", 0, "demo", 11)


def check(phantom: Phantom, label: np.ndarray) -> tuple[str, ...]:
    return check_label(phantom.image_hu, label, phantom.spacing)


def test_a_right_label_has_no_warning(phantom: Phantom) -> None:
    assert check(phantom, phantom.label) == ()


@pytest.mark.parametrize(
    ("axes", "words"),
    [((0,), "head-feet"), ((1,), "front-back"), ((2,), "left-right"), ((0, 1, 2), "head-feet and")],
)
def test_a_mirrored_label_is_called_mirrored_with_its_axes(
    phantom: Phantom, axes: tuple[int, ...], words: str
) -> None:
    (warning,) = check(phantom, np.flip(phantom.label, axes))
    assert f"fit its image better mirrored {words}" in warning


def test_a_shifted_label_is_reported_with_the_way_back(phantom: Phantom) -> None:
    moved = np.roll(phantom.label, round(16 / phantom.spacing[2]), axis=2)  # to the left
    (warning,) = check(phantom, moved)
    assert "16 mm toward the right: it is shifted" in warning


def test_a_label_on_even_tissue_follows_no_organ() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(60, 20, (30, 60, 60)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[10:20, 20:40, 20:40] = 1
    (warning,) = check_label(image, label, SPACING)
    assert "follows no organ of its image" in warning


def test_a_label_is_the_same_in_every_resolution(phantom: Phantom) -> None:
    fine = [np.repeat(a, 2, axis=2) for a in (phantom.image_hu, phantom.label)]
    spacing = (*phantom.spacing[:2], phantom.spacing[2] / 2)
    assert check_label(fine[0], fine[1], spacing) == ()
    assert check_label(fine[0], fine[1][:, ::-1], spacing) != ()


def test_too_little_to_tell_is_no_warning() -> None:
    image = np.random.default_rng(0).integers(-100, 300, (5, 6, 7)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    assert check_label(image, label, SPACING) == ()
    label[2, 2:4, 2:4] = 1
    for given, spacing in ((label, SPACING), (np.ones_like(label), (20.0, 20.0, 20.0))):
        (volume,) = check_label(image, given, spacing)
        assert re.fullmatch(r"pancreas with lesion has [0-9.]+ ml; look at the label", volume)


def test_slices_of_two_scans_that_alternate_give_a_warning(phantom: Phantom) -> None:
    image = phantom.image_hu
    near, far = slice_differences(image)
    assert 0 < near < far
    other = np.roll(image, 5, axis=2)
    other[1::2] = image[1::2]
    (warning,) = check_image(other)
    assert "two phases or two scans whose slices alternate" in warning
    assert slice_differences(image[:7]) == (0, 0)


def make_lesion(shape: tuple[int, int, int] = (20, 20, 60)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[4:16, 4:16, 4:16] = 1
    return label


def test_a_lesion_inside_the_pancreas_has_no_warning() -> None:
    label = make_lesion()
    label[8:11, 8:11, 8:11] = 2
    assert check_lesions(label, SPACING) == ()
    assert check_lesions(make_lesion(), SPACING) == ()


def test_a_lesion_without_a_pancreas_is_reported() -> None:
    (warning,) = check_lesions(2 * make_lesion(), SPACING)
    assert "every labeled voxel is tumor" in warning


def test_a_lesion_larger_than_the_pancreas_is_reported_in_ml() -> None:
    label = make_lesion()
    label[4:14, 4:16, 4:16] = 2
    (warning,) = check_lesions(label, SPACING)
    assert "tumor (8.6 ml) is larger than the pancreas around it (1.7 ml)" in warning


def test_a_lesion_of_a_few_voxels_is_reported() -> None:
    label = make_lesion()
    label[8, 8, 8:10] = 2
    (warning,) = check_lesions(label, SPACING)
    assert "its lesion has 2 voxels (12 mm3)" in warning


def test_a_far_lesion_is_reported_with_its_distance() -> None:
    label = make_lesion()
    label[8:11, 8:11, 8:11] = 2
    label[8:11, 8:11, 50:54] = 2
    (warning,) = check_lesions(label, SPACING)
    assert "lesion 2 of 2 lies 35 mm away from the pancreas" in warning  # x 15 to x 50, 1 mm each


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_few_slices_are_told(slices: int) -> None:
    image = np.random.default_rng(0).integers(-900, 900, (slices, 40, 40)).astype(np.int16)
    (warning,) = check_image(image)
    assert f"has {slices} slices in the direction head-feet" in warning


def test_a_body_that_is_constant_after_the_window_is_reported() -> None:
    image = np.full((20, 40, 40), -1000, np.int16)
    assert "constant after the window of -100 to 240 HU" in check_image(image)[0]
    image[5:15, 10:30, 10:30] = 1000 + np.arange(20)  # bright beyond the window
    assert "constant after the window" in check_image(image)[0]
    image[5:15, 10:30, 10:30] = np.arange(20) * 5
    assert check_image(image) == ()


def test_blocks_are_averaged_and_the_rest_is_dropped() -> None:
    image = np.arange(5 * 4 * 7).reshape(5, 4, 7).astype(np.int16)
    means = average_blocks(image, [2, 1, 3])
    assert means.shape == (2, 4, 2)
    for z, y, x in itertools.product(range(2), range(4), range(2)):
        block = image[2 * z : 2 * z + 2, y, 3 * x : 3 * x + 3]
        assert means[z, y, x] == pytest.approx(block.mean())


def test_the_fit_is_the_mean_distance_from_the_median_inside() -> None:
    image = np.array([[[0, 10, 20, 110, 1000]]], np.float32)
    points = np.array([[0, 0, x] for x in range(5)]).repeat(30, axis=0)
    fit = measure_fit(image, points[:90], points[90:])
    assert fit.contrast == pytest.approx((100 + 150) / 2 - 20 / 3)  # 150 is the cap
    assert fit.ratio == pytest.approx(125 / (20 / 3 + 5))
