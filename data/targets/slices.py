"""Eq. 3's target: which slices hold what is segmented."""

from __future__ import annotations

from torch import Tensor


def slice_labels(mask: Tensor) -> Tensor:
    """Slice targets C of Eq. 3: 1 where the slice holds any target voxel.

    `mask`: (b, 1, z, y, x). Returns float32 (b, z). (The released scripts ask for more than 10
    voxels.)
    """
    if mask.dim() != 5:
        raise ValueError(f"mask must be (b, 1, z, y, x), not {tuple(mask.shape)}")
    return (mask > 0.5).any(dim=(1, 3, 4)).float()  # (b, z)
