"""A loss of several views of one sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def mean_over_views(loss: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> Tensor:
    """The mean of a loss over views, each (b, ...) of one shape.

    `loss`: views (v, b, ...) -> its mean over them. A GPU is given all views at once, as little to
    do as for one; a CPU takes one after the other, since that is what its caches hold.
    """
    if views[0].device.type == "cpu":
        return torch.stack([loss(view[None]) for view in views]).mean()
    return loss(torch.stack(tuple(views)))
