"""Components, longest axes and matches: by hand, by brute force, and as picai_eval has them."""

from __future__ import annotations

import numpy as np
import pytest
from picai_eval.eval import evaluate_case
from scipy import ndimage
from scipy.spatial.distance import pdist

from utils.lesions import longest_axis, match_findings, split_components

SPACING = (2.5, 0.9, 0.7)


def blobs(seed: int, quantile: float = 0.93) -> np.ndarray:
    """Several ragged parts."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((14, 30, 33)), 1.5)
    return noise > np.quantile(noise, quantile)


def test_components_are_the_mask_and_touch_at_corners() -> None:
    mask = blobs(0)
    parts = split_components(mask)
    again = np.zeros_like(mask)
    for part in parts:
        assert not again[part].any()
        again[part] = True
    assert (again == mask).all()
    assert len(parts) == ndimage.label(mask, np.ones((3, 3, 3)))[1] > 3
    corners = np.zeros((4, 4, 4), bool)
    corners[0, 0, 0] = corners[1, 1, 1] = corners[3, 3, 3] = True
    assert [len(part[0]) for part in split_components(corners)] == [2, 1]
    assert split_components(np.zeros((2, 3, 4), bool)) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_longest_axis_is_that_of_all_pairs(seed: int) -> None:
    for part in split_components(blobs(seed)):
        points = np.stack(part, axis=1) * SPACING
        expected = pdist(points).max() if len(points) > 1 else 0.0
        assert longest_axis(part, SPACING) == pytest.approx(expected)


def test_a_flat_lesion_a_line_and_a_voxel_have_a_longest_axis_too() -> None:
    mask = np.zeros((3, 20, 20), bool)
    mask[1, 2:12, 3:9] = True
    (flat,) = split_components(mask)
    assert longest_axis(flat, (5.0, 1.0, 2.0)) == pytest.approx(np.hypot(9, 10))
    assert longest_axis((np.array([1, 2]), np.array([0, 0]), np.array([4, 4])), SPACING) == 2.5
    assert longest_axis((np.array([1]), np.array([0]), np.array([4])), SPACING) == 0


def test_a_ball_is_as_long_as_its_diameter_but_for_a_voxel() -> None:
    z, y, x = np.indices((21, 41, 41))
    ball = (2 * (z - 10.0)) ** 2 + (y - 20.0) ** 2 + (x - 20.0) ** 2 <= 15**2
    (part,) = split_components(ball)
    assert longest_axis(part, (2.0, 1.0, 1.0)) == pytest.approx(30, abs=1)


def test_a_hit_needs_a_tenth_and_a_second_finding_on_a_lesion_is_not_false() -> None:
    mask, pred = np.zeros((2, 1, 4, 60), bool)
    mask[0, 0, :20] = True
    pred[0, 0, 18:20] = pred[0, 1, 20] = False
    pred[0, 0, :3] = True  # 3 of 20
    pred[0, 0, 5:9] = True  # 4 of 20: matched
    pred[0, 0, 18:22] = True  # 2 of 22: too little
    pred[0, 3, 40:42] = True  # nowhere
    found = match_findings(split_components(pred), split_components(mask), mask.shape)
    assert found.of_lesion == (1,)
    assert found.iou == (pytest.approx(0.2),)
    assert found.false == (2, 3)
    exact = np.zeros_like(mask)
    exact[0, 0, :2] = True  # 2 of 20 is a tenth
    found = match_findings(split_components(exact), split_components(mask), mask.shape)
    assert found.of_lesion == (0,)


@pytest.mark.parametrize("seed", range(6))
def test_matches_are_those_of_picai_eval(seed: int) -> None:
    mask = blobs(seed)
    pred = np.roll(mask, 2, axis=2) & (blobs(seed, 0.5) | (np.indices(mask.shape)[1] < 12))
    findings, lesions = split_components(pred), split_components(mask)
    detection = np.zeros(mask.shape, np.float32)
    probs = np.random.default_rng(seed).uniform(0.5, 1, len(findings)).astype(np.float32)
    for prob, part in zip(probs, findings, strict=True):
        detection[part] = prob
    expected, score = evaluate_case(detection, mask.astype(np.int32))[:2]
    found = match_findings(findings, lesions, mask.shape)
    ours = [
        (1, probs[number] if number >= 0 else 0.0, iou)
        for number, iou in zip(found.of_lesion, found.iou, strict=True)
    ] + [(0, probs[number], 0.0) for number in found.false]
    assert sorted(ours) == [pytest.approx(one) for one in sorted(expected)]
    assert score == pytest.approx(probs.max())
    assert 0 < sum(n >= 0 for n in found.of_lesion) < len(lesions) or seed > 0


def test_nothing_on_either_side_matches_nothing() -> None:
    mask = blobs(1)
    parts = split_components(mask)
    assert match_findings([], parts, mask.shape).of_lesion == (-1,) * len(parts)
    assert match_findings(parts, [], mask.shape).false == tuple(range(len(parts)))
    assert match_findings([], [], mask.shape).of_lesion == ()
