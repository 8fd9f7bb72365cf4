"""Where a gradient has arrived."""

from __future__ import annotations

from torch import nn


def has_gradient(module: nn.Module) -> bool:
    """Whether a parameter of the module has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.count_nonzero()) for p in module.parameters())
