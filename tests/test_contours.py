"""Contours and rings, against scipy's erosion and dilation in each slice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from data.targets.contours import contour_and_ring

CROSS_2D = ndimage.generate_binary_structure(2, 1)[None]


def blobs(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((6, 24, 30))
    return ndimage.gaussian_filter(noise, (0.5, 2, 2)) > 0.53


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 5])
def test_they_are_what_erosion_removes_and_dilation_adds_in_each_slice(
    seed: int, width: int
) -> None:
    mask = blobs(seed)
    assert mask.any()
    assert not mask.all()
    contour, ring = contour_and_ring(torch.from_numpy(mask), width)
    eroded = ndimage.binary_erosion(mask, CROSS_2D, border_value=1)
    dilated = ndimage.binary_dilation(mask, CROSS_2D, iterations=width)
    np.testing.assert_array_equal(contour.numpy(), mask & ~eroded)
    np.testing.assert_array_equal(ring.numpy(), dilated & ~mask)


def test_a_square_has_its_rim_and_the_slices_beside_it_have_nothing() -> None:
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[1, 6:10, 6:10] = True
    contour, ring = contour_and_ring(mask, 2)
    assert contour.sum() == 12
    assert not (contour & ~mask).any()
    assert ring.sum() == 4 * (4 + 4) + 4  # two rows along each side, one voxel at each corner
    assert contour[1].any()
    assert not (contour | ring)[[0, 2]].any()


def test_without_a_lesion_both_are_empty_and_a_full_array_has_no_contour() -> None:
    for value in (False, True):
        contour, ring = contour_and_ring(torch.full((2, 8, 8), value))
        assert not contour.any()
        assert not ring.any()
