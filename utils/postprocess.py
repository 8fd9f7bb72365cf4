"""From a thresholded prediction to the mask that is kept (protocol)."""

from __future__ import annotations

import numpy as np

from utils.boxes import filled_box

CONNECTIVITY_26 = np.ones((3, 3, 3), dtype=bool)
MIN_SHARE = 0.5  # of the largest component's voxels; a component must hold more


def keep_components(pred: np.ndarray) -> np.ndarray:
    """Keep the largest 26-connected component and every other larger than half of it.

    `pred`: bool (z, y, x). Returns a new bool array of that shape; an empty one stays empty, and
    of several components of the largest size all stay. Raises ValueError for another type.
    """
    from scipy import ndimage

    if pred.dtype != np.bool_ or pred.ndim != 3:
        raise ValueError(
            f"pred must be a bool array (z, y, x), not {pred.dtype} of shape {pred.shape}"
        )
    kept = np.zeros(pred.shape, dtype=bool)
    box = filled_box(pred)
    if box is None:
        return kept
    labels, count = ndimage.label(pred[box], structure=CONNECTIVITY_26)
    sizes = np.zeros(count + 1, int)
    for plane in labels:  # bincount makes integers of 8 bytes of what it counts
        sizes += np.bincount(plane.reshape(-1), minlength=count + 1)
    sizes[0] = 0  # the background
    kept[box] = (sizes > MIN_SHARE * sizes.max())[labels]
    return kept
