"""data/shifts.py: the known effect of each change, three strengths, the same noise each time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.case import Case, Grid
from data.phantom.centers import CENTERS
from data.phantom.generate import make_phantom, plan_case
from data.phantom.redraw import DrawnCenters
from data.shifts import (
    IMAGE_SHIFTS,
    PHANTOM_SHIFTS,
    coarse_noise,
    enhancement,
    gain,
    offset,
    other_lesion,
    other_size,
    sharper,
    shift_case,
    softer,
    thicker,
    white_noise,
)

SPACING = (2.5, 0.8, 1.6)
HU = np.array([[[-1000.0, -850.0, -100.0, 0.0, 40.0, 140.0]]], np.float32)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def case_of(hu: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> Case:
    z, y, x = hu.shape
    grid = Grid((x, y, z), spacing[::-1], (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    return Case("a", "A", hu.astype(np.int16), None, spacing, grid)


def test_contrast_scales_what_is_brighter_than_soft_tissue_and_nothing_else() -> None:
    np.testing.assert_allclose(
        enhancement(1.6)(HU, SPACING, rng()), [[[-1000, -850, -100, 0, 40, 200]]]
    )
    np.testing.assert_allclose(
        enhancement(0.4)(HU, SPACING, rng()), [[[-1000, -850, -100, 0, 40, 80]]]
    )


def test_an_offset_moves_the_body_only_and_a_gain_leaves_water() -> None:
    np.testing.assert_array_equal(
        offset(-20)(HU, SPACING, rng()), [[[-1000, -850, -120, -20, 20, 120]]]
    )
    np.testing.assert_allclose(gain(1.1)(HU, SPACING, rng()), 1.1 * HU, rtol=1e-6)


@pytest.mark.parametrize("noise", [white_noise, coarse_noise])
def test_noise_has_the_deviation_that_it_says_and_no_mean(noise) -> None:  # type: ignore[no-untyped-def]
    flat = np.full((20, 60, 60), 50, np.float32)
    for deviation in (10, 40):
        noisy = noise(deviation)(flat, SPACING, rng())
        assert noisy.std() == pytest.approx(deviation, rel=0.02)
        assert noisy.mean() == pytest.approx(50, abs=0.05 * deviation)


def test_coarse_noise_is_correlated_in_plane_as_far_as_its_grain_and_white_noise_is_not() -> None:
    flat = np.zeros((30, 80, 80), np.float32)
    white, coarse = (n(20)(flat, (2.5, 1.0, 1.0), rng()) for n in (white_noise, coarse_noise))

    def correlation(noise: np.ndarray, axis: int, step: int) -> float:
        one, other = (
            np.take(noise, range(a, noise.shape[axis] - step + a), axis) for a in (0, step)
        )
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    assert abs(correlation(white, 2, 2)) < 0.02
    # white noise after a Gaussian of s is correlated by exp(-d^2 / 4 s^2): s 2 mm, d 2 mm
    assert correlation(coarse, 2, 2) == pytest.approx(np.exp(-4 / 16), abs=0.03)
    assert abs(correlation(coarse, 0, 1)) < 0.02


def test_a_softer_kernel_keeps_the_mean_and_spreads_a_point_as_wide_in_mm_on_any_pixel() -> None:
    point = np.zeros((3, 41, 41), np.float32)
    point[1, 20, 20] = 1000
    soft = softer(2.0)(point, SPACING, rng())
    assert soft.sum() == pytest.approx(1000, rel=1e-3)
    assert not soft[0].any()
    y, x = (np.arange(41) - 20) * 0.8, (np.arange(41) - 20) * 1.6
    for line, at in ((soft[1].sum(1), y), (soft[1].sum(0), x)):
        assert np.sqrt((line * at**2).sum() / line.sum()) == pytest.approx(2.0, rel=0.02)
    noisy = white_noise(20)(np.zeros((9, 60, 60), np.float32), SPACING, rng())
    deviations = [softer(width)(noisy, SPACING, rng()).std() for width in (1.0, 2.0, 3.5)]
    assert noisy.std() > deviations[0] > deviations[1] > deviations[2]


def test_a_sharper_kernel_keeps_what_is_flat_and_lifts_an_edge() -> None:
    flat = np.full((4, 20, 20), 77.0, np.float32)
    np.testing.assert_allclose(sharper(2.0)(flat, SPACING, rng()), flat, rtol=1e-5)
    edge = np.zeros((4, 20, 20), np.float32)
    edge[:, :, 10:] = 100
    steps = [float(np.diff(sharper(g)(edge, SPACING, rng())[0, 5])[9]) for g in (0.5, 1.0, 2.0)]
    assert 100 < steps[0] < steps[1] < steps[2]
    # a linear filter: twice the gain, twice the overshoot
    assert steps[2] - 100 == pytest.approx(2 * (steps[1] - 100), rel=1e-4)


def test_thick_slices_are_means_of_neighbors() -> None:
    hu = rng().normal(0, 50, (9, 4, 5)).astype(np.float32)
    thick = thicker(7.5)(hu, SPACING, rng())  # three slices of 2.5 mm
    means = hu.reshape(3, 3, 4, 5).mean(axis=1)
    np.testing.assert_allclose(thick[[1, 4, 7]], means, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(thick[2], (2 * means[0] + means[1]) / 3, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(thick[0], thick[1])  # beyond the last middle nothing is known
    assert thicker(2.6)(hu, SPACING, rng()) is hu
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], (12, 2, 2))
    np.testing.assert_allclose(thicker(5.0)(ramp, SPACING, rng())[1:-1], ramp[1:-1], atol=1e-5)


def test_slices_that_do_not_divide_and_a_single_thick_one() -> None:
    hu = rng().normal(0, 50, (7, 2, 2)).astype(np.float32)
    thick = thicker(7.5)(hu, SPACING, rng())
    np.testing.assert_array_equal(thick[6], hu[6])  # the last one is alone
    whole = thicker(100.0)(hu, SPACING, rng())
    np.testing.assert_allclose(whole, np.broadcast_to(hu.mean(axis=0), hu.shape), rtol=1e-4)


@pytest.mark.parametrize("change", IMAGE_SHIFTS)
def test_every_change_is_int16_hu_repeats_and_grows_with_its_strength(change: str) -> None:
    hu = np.clip(rng().normal(60, 40, (12, 30, 30)), -90, 300)
    hu[:, :, :4] = -1000
    case = case_of(hu)
    distances = []
    for strength in IMAGE_SHIFTS[change].strengths:
        changed, again = (shift_case(case, change, strength) for _ in range(2))
        assert changed.image_hu.dtype == np.int16
        assert -1024 <= changed.image_hu.min() <= changed.image_hu.max() <= 3071
        np.testing.assert_array_equal(changed.image_hu, again.image_hu)
        assert (changed.grid, changed.spacing) == (case.grid, case.spacing)
        distances.append(float(np.abs(changed.image_hu - case.image_hu.astype(float)).mean()))
    assert 0 < distances[0] < distances[1] < distances[2]


def test_noise_of_another_case_is_another_and_of_another_strength_the_same() -> None:
    case = case_of(np.full((4, 20, 20), 50))
    one = shift_case(case, "white noise", 10).image_hu - 50
    two = shift_case(case, "white noise", 20).image_hu - 50
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.99
    other = shift_case(replace(case, case_id="b"), "white noise", 10).image_hu - 50
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


# synthetic patients


def test_a_patient_gets_another_lesion_in_the_same_place_and_keeps_the_rest() -> None:
    plain = plan_case("SYN-E", 1, "demo", 7)
    assert PHANTOM_SHIFTS["lesion"].strengths == ("PDA", "IPMN", "PNET")
    for kind in PHANTOM_SHIFTS["lesion"].strengths:
        plan = plan_case("SYN-E", 1, "demo", 7, other_lesion(CENTERS["SYN-E"], kind))
        assert plan.lesion is not None
        assert plain.lesion is not None
        assert plan.lesion.kind == kind
        same = (plan.lesion.region, plan.lesion.diameter_mm, plan.look.noise_hu, plan.shape)
        assert same == (
            plain.lesion.region, plain.lesion.diameter_mm, plain.look.noise_hu, plain.shape,
        )  # fmt: skip
        np.testing.assert_array_equal(plan.lesion.spheres[0], plain.lesion.spheres[0])


def test_a_patient_of_another_size_is_scaled() -> None:
    plain = plan_case("SYN-E", 1, "demo", 7)
    for change in ("smaller body", "larger body"):
        for factor in PHANTOM_SHIFTS[change].strengths:
            plan = plan_case("SYN-E", 1, "demo", 7, other_size(CENTERS["SYN-E"], factor))
            expected = plain.scene.patient.size * float(factor)
            assert plan.scene.patient.size == pytest.approx(expected)
    small = make_phantom("SYN-E", 1, "demo", 7, other_size(CENTERS["SYN-E"], 0.8))
    before = make_phantom("SYN-E", 1, "demo", 7)
    bodies = [np.count_nonzero(p.image_hu > -300) for p in (small, before)]
    assert bodies[0] < 0.9 * bodies[1]


def test_a_case_is_drawn_again_as_it_lies_on_the_disk() -> None:
    drawn = DrawnCenters("demo", 7)
    case, phantom = drawn.redraw("SYN-E", "SYN-E_002"), make_phantom("SYN-E", 1, "demo", 7)
    np.testing.assert_array_equal(case.image_hu, phantom.image_hu)
    assert case.label is not None
    np.testing.assert_array_equal(case.label, phantom.label)
    assert case.grid.size_xyz == case.image_hu.shape[::-1]
    assert case.spacing == phantom.spacing
