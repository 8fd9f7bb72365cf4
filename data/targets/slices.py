"""Eq. 3's target: which slices hold what is segmented."""

from __future__ import annotations

from torch import Tensor


def slice_labels(mask: Tensor, min_voxels: int = 1) -> Tensor:
    """Slice targets C of Eq. 3: 1 where the slice holds at least `min_voxels` target voxels.

    `mask`: (b, 1, z, y, x). Returns float32 (b, z). The released scripts ask for more than 10
    voxels: `min_voxels=11`.
    """
    if mask.dim() != 5:
        raise ValueError(f"mask must be (b, 1, z, y, x), not {tuple(mask.shape)}")
    return ((mask > 0.5).sum(dim=(1, 3, 4)) >= min_voxels).float()  # (b, z)
