"""Small images are found whichever way they are mirrored, and no pair that is alike is missed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from data.prepare.mirrored import GrayImages, ImageIndex, best_mirrored, correlate, mirror_parts

AXES = (1, 2, 3)
LEAST = 0.97


def make_images(count: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, 4, 6, 8): a few shapes, each with changes of all sizes."""
    rng = np.random.default_rng(seed)
    shapes = rng.uniform(60, 190, (3, 4, 6, 8))
    changes = rng.normal(0, 1, (count, 4, 6, 8)) * rng.uniform(0, 20, (count, 1, 1, 1))
    return np.clip(shapes[np.arange(count) % 3] + changes, 0, 255).astype(np.uint8)


def mirror_at_random(images: np.ndarray, seed: int = 1) -> np.ndarray:
    """Each of them mirrored along axes of its own."""
    rng = np.random.default_rng(seed)
    ways = [tuple(np.flatnonzero(rng.random(3) < 0.5).tolist()) for _ in images]
    return np.stack([np.flip(image, way) for image, way in zip(images, ways, strict=True)])


def correlate_slowly(a: np.ndarray, b: np.ndarray) -> float:
    """numpy's correlation in each of the 8 mirrorings; the largest."""
    ways = itertools.chain.from_iterable(itertools.combinations(range(3), k) for k in range(4))
    return max(np.corrcoef(a.ravel(), np.flip(b, way).ravel())[0, 1] for way in ways)


def all_of(images: np.ndarray) -> GrayImages:
    return GrayImages(images, np.arange(len(images)), AXES)


def test_the_parts_products_are_the_correlations_of_all_mirrorings() -> None:
    a = make_images(12)
    b = mirror_at_random(np.concatenate([a[:6], a[5:11]]))  # the same six, then others
    found = best_mirrored(mirror_parts(a, AXES), mirror_parts(b, AXES))
    expected = [correlate_slowly(*pair) for pair in zip(a, b, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert min(expected) < 0.9 < LEAST < max(expected)


def test_mirroring_changes_nothing_of_what_is_mirror_free() -> None:
    images = make_images(6)
    free = all_of(images).mirror_free(np.arange(6))
    mirrored = all_of(mirror_at_random(images)).mirror_free(np.arange(6))
    np.testing.assert_allclose(mirrored, free, atol=1e-6)
    assert np.abs(free[1:] - free[:-1]).max() > 0.01


def test_all_pairs_that_are_alike_are_among_the_near_ones_and_few_others() -> None:
    first, second = make_images(90), mirror_at_random(make_images(60, seed=0))
    index = ImageIndex(all_of(first), LEAST)
    near = {
        (int(i), int(j))
        for places in index.near(all_of(second))
        for i, j in zip(*places, strict=True)
    }
    alike = {
        (i, j)
        for i, j in itertools.product(range(60), range(90))
        if correlate_slowly(second[i], first[j]) >= LEAST
    }
    assert 60 < len(alike) < 60 * 90 / 4
    assert alike <= near
    assert len(near) < 1.5 * len(alike)


def test_images_of_several_rows_and_of_none() -> None:
    rows = np.array([[0, 1], [3, 2]])
    images = GrayImages(make_images(4), rows, (2, 3, 4))
    swapped = GrayImages(make_images(4), rows[:, ::-1], (2, 3, 4))
    both = np.arange(2)
    assert correlate(images, both, images, both) == pytest.approx([1, 1], abs=1e-6)
    assert correlate(images, both, swapped, both).max() < 0.99
    assert correlate(images, both[:0], images, both[:0]).shape == (0,)


def test_a_constant_image_is_like_nothing() -> None:
    images = make_images(3)
    images[1] = 7
    assert not mirror_parts(images, AXES)[1].any()
    every = np.arange(3)
    assert correlate(all_of(images), every, all_of(images), every) == pytest.approx([1, 0, 1])
