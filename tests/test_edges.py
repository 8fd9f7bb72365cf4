"""The edge of a mask."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from data.targets.edges import edge_mask


def cube(side: int) -> Tensor:
    """A solid cube in the middle of 12 x 14 x 16 voxels."""
    mask = torch.zeros(1, 1, 12, 14, 16, dtype=torch.bool)
    mask[..., 3 : 3 + side, 4 : 4 + side, 5 : 5 + side] = True
    return mask


@pytest.mark.parametrize("side", [1, 3, 5])
def test_the_edge_of_a_cube_is_its_shell_inside_and_outside(side: int) -> None:
    mask = cube(side)
    edge = edge_mask(mask)
    shell = side**3 - max(side - 2, 0) ** 3
    assert int((edge & mask).sum()) == shell
    assert int((edge & ~mask).sum()) == 6 * side**2


@pytest.mark.parametrize("within_slices", [False, True])
def test_it_is_dilation_minus_erosion_by_a_cross(within_slices: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(2, 1, 5, 7, 9, generator=generator) > 0.7
    mask[1] = ~mask[1]
    cross = ndimage.generate_binary_structure(3, 1)
    if within_slices:
        cross[[0, 2]] = False
    for found, volume in zip(
        edge_mask(mask, within_slices=within_slices)[:, 0], mask[:, 0].numpy(), strict=True
    ):
        dilated = ndimage.binary_dilation(volume, cross)
        eroded = ndimage.binary_erosion(volume, cross, border_value=1)
        assert torch.equal(found, torch.from_numpy(dilated & ~eroded))


def test_a_full_and_an_empty_volume_have_no_edge() -> None:
    empty = torch.zeros(1, 1, 3, 4, 5)
    assert not edge_mask(empty).any()
    assert not edge_mask(empty + 1).any()


def test_within_slices_a_slice_knows_nothing_of_the_next() -> None:
    mask = torch.zeros(1, 1, 4, 6, 6)
    mask[..., 1, :, :] = 1
    assert not edge_mask(mask, within_slices=True).any()
    assert edge_mask(mask).sum() == 3 * 36


def test_a_float_mask_has_the_edge_of_a_bool_one_and_stays_as_it_is() -> None:
    mask = cube(3)
    values = mask.float()
    assert torch.equal(edge_mask(values), edge_mask(mask))
    assert torch.equal(values, mask.float())


def test_a_volume_of_one_slice_has_an_edge_within_it() -> None:
    mask = torch.zeros(1, 1, 1, 5, 5)
    mask[..., 2, 2] = 1
    assert edge_mask(mask).sum() == 5
