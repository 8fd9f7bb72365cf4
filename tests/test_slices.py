"""Eq. 3's target."""

from __future__ import annotations

import pytest
import torch

from data.targets.slices import slice_labels


def test_slice_labels_mark_the_slices_that_hold_any_voxel() -> None:
    mask = torch.zeros((2, 1, 4, 5, 6))
    mask[0, 0, 1, 0, 0] = 1
    mask[0, 0, 2, :2, :] = 1
    mask[1, 0, 3, 0, :] = 1
    assert slice_labels(mask).tolist() == [[0, 1, 1, 0], [0, 0, 0, 1]]
    assert slice_labels(mask.bool()).dtype == torch.float32


def test_slice_labels_refuse_a_mask_without_the_channel_axis() -> None:
    with pytest.raises(ValueError, match=r"must be \(b, 1, z, y, x\)"):
        slice_labels(torch.zeros((2, 4, 5, 6)))
