"""The auxiliary loss of HOG (Bhattarai et al., 2023): regression of the image's descriptor."""

from __future__ import annotations

from torch import Tensor


def descriptor_loss(pred: Tensor, target: Tensor, rim: int = 1) -> Tensor:
    """Mean squared error of descriptors (b, c, z, y, x) over the cells that are off the rim.

    `rim`: cells that are left out at both ends of y and of x, where the crop's border and what
    was padded make gradients that are not the patient's; an axis that has no cell between keeps
    all. Returns a float32 scalar. Raises ValueError for shapes that differ.
    """
    if pred.shape != target.shape:
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} differ")
    error = (pred.float() - target.float()).square()
    for axis in (3, 4):
        inner = error.shape[axis] - 2 * rim
        if inner > 0:
            error = error.narrow(axis, rim, inner)
    return error.mean()
