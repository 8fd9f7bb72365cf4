"""Eq. 8's voxels: the dilation against skimage's, and where the anchors may and must lie."""

import numpy as np
import pytest
import torch
from skimage.morphology import dilation

from data.targets.anchors import anchor_masks, dilate
from data.targets.sdm import bounding_box


def box_mask(*boxes: tuple[slice, slice, slice]) -> torch.Tensor:
    mask = torch.zeros(1, 1, 24, 48, 64, dtype=torch.bool)
    for box in boxes:
        mask[(0, 0, *box)] = True
    return mask


def cells(mask: torch.Tensor) -> list[list[int]]:
    return mask[0, 0].nonzero().tolist()


@pytest.mark.parametrize("sides", [(12, 15, 15), (1, 2, 3), (5, 4, 1), (20, 10, 13)])
@pytest.mark.parametrize("seed", range(5))
def test_dilation_equals_skimages_with_a_box(sides: tuple[int, int, int], seed: int) -> None:
    mask = np.random.default_rng(seed).random((11, 19, 23)) > 0.997
    expected = dilation(mask, np.ones(sides, bool))
    np.testing.assert_array_equal(dilate(torch.from_numpy(mask), sides).numpy(), expected)


def test_the_dilation_of_nothing_is_nothing() -> None:
    assert not dilate(torch.zeros(3, 4, 5, dtype=torch.bool)).any()


def test_a_lesion_of_one_voxel_has_one_positive_at_its_cell() -> None:
    positive, _ = anchor_masks(box_mask((slice(9, 10), slice(20, 21), slice(63, 64))))
    assert cells(positive) == [[1, 2, 7]]


def test_each_slice_of_cells_with_lesion_has_one_positive_in_the_middle_of_its_lesion() -> None:
    positive, _ = anchor_masks(box_mask((slice(4, 20), slice(8, 32), slice(16, 56))))
    assert cells(positive) == [[0, 2, 4], [1, 2, 4], [2, 2, 4]]


def test_the_center_line_of_a_ring_stays_on_the_ring() -> None:
    mask = box_mask((slice(0, 8), slice(0, 40), slice(0, 40)))
    mask[..., 8:32, 8:32] = False  # the centroid is not lesion
    positive, _ = anchor_masks(mask)
    ((_, y, x),) = cells(positive)
    assert mask[0, 0, 0, 8 * y, 8 * x]
    assert [y, x] == [0, 2]  # of four cells equally near, the first


def test_a_cell_of_mostly_lesion_is_preferred_to_a_nearer_one_with_a_rim() -> None:
    mask = box_mask(
        (slice(0, 8), slice(0, 8), slice(0, 8)),
        (slice(0, 8), slice(0, 1), slice(8, 16)),
        (slice(0, 8), slice(0, 8), slice(16, 23)),
    )
    positive, _ = anchor_masks(mask)  # the centroid lies in the middle cell, one eighth lesion
    assert cells(positive) == [[0, 0, 0]]


def test_negatives_surround_the_lesion_and_hold_none_of_it() -> None:
    mask = box_mask((slice(8, 16), slice(16, 24), slice(24, 32)))
    _, negative = anchor_masks(mask, dilation=(3, 3, 3))
    expected = torch.zeros(3, 6, 8, dtype=torch.bool)
    expected[0:3, 1:4, 2:5] = True
    expected[1, 2, 3] = False
    assert torch.equal(negative[0, 0], expected)


def test_negatives_end_where_the_dilation_ends() -> None:
    mask = box_mask((slice(8, 9), slice(20, 21), slice(28, 29)))
    _, negative = anchor_masks(mask, dilation=(3, 9, 11))
    # From voxel (8, 20, 28): z 7 to 9, y 16 to 24, x 23 to 33.
    expected = torch.zeros(3, 6, 8, dtype=torch.bool)
    expected[0:2, 2:4, 2:5] = True
    expected[1, 2, 3] = False
    assert torch.equal(negative[0, 0], expected)


@pytest.mark.parametrize("seed", range(10))
def test_on_any_lesion_positives_hold_lesion_and_negatives_hold_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = torch.zeros(1, 1, 24, 32, 40, dtype=torch.bool)
    for z, y, x in rng.integers(0, (24, 32, 40), (3, 3)):
        mask[..., z : z + 5, y : y + 6, x : x + 9] = True
    positive, negative = anchor_masks(mask, dilation=(10, 20, 15))
    parts = mask[0, 0].reshape(3, 8, 4, 8, 5, 8)
    lesion = parts.any(5).any(3).any(1)
    region = torch.from_numpy(dilation(mask[0, 0].numpy(), np.ones((10, 20, 15), bool)))
    near = region.reshape(3, 8, 4, 8, 5, 8).any(5).any(3).any(1)
    assert torch.equal(negative[0, 0], near & ~lesion)
    assert not (positive[0, 0] & ~lesion).any()
    assert torch.equal(positive[0, 0].sum((1, 2)), lesion.any(2).any(1).long())


def test_without_lesion_there_are_no_anchors_and_a_full_crop_has_no_negatives() -> None:
    empty = torch.zeros(1, 1, 16, 16, 24, dtype=torch.bool)
    for masks in zip(anchor_masks(empty), anchor_masks(~empty), strict=True):
        assert masks[0].shape == masks[1].shape == (1, 1, 2, 2, 3)
        assert not masks[0].any()
    positive, negative = anchor_masks(~empty)
    assert positive.sum() == 2
    assert not negative.any()


def test_a_box_that_is_known_changes_nothing() -> None:
    lesion = box_mask((slice(4, 20), slice(8, 31), slice(16, 53)))
    for mask in (lesion, torch.zeros_like(lesion)):
        known = anchor_masks(mask, boxes=[bounding_box(mask[0, 0])])
        for ours, usual in zip(known, anchor_masks(mask), strict=True):
            assert torch.equal(ours, usual)


def test_a_shape_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 8"):
        anchor_masks(torch.zeros(1, 1, 16, 20, 16, dtype=torch.bool))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_anchors() -> None:
    mask = box_mask(
        (slice(4, 20), slice(8, 31), slice(16, 53)), (slice(2, 5), slice(40, 44), slice(3, 6))
    )
    for ours, theirs in zip(anchor_masks(mask), anchor_masks(mask.cuda()), strict=True):
        assert torch.equal(ours, theirs)  # both are on the CPU
