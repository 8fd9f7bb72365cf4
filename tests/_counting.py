"""Parameters and multiply-accumulates, counted once for networks of one structure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from torch import nn

from models.complexity import PATCH_SIZES, Complexity, count_complexity

PLAIN = (bool, int, float, str, tuple, type(None))
_counted: dict[Hashable, Complexity] = {}


def structure(network: nn.Module) -> Hashable:
    """What a count depends on: of each part its name, class, settings and the shapes it holds."""
    return tuple(
        (
            name,
            type(part),
            tuple((key, value) for key, value in vars(part).items() if isinstance(value, PLAIN)),
            tuple((key, value.shape) for key, value in part.named_parameters(recurse=False)),
        )
        for name, part in network.named_modules()
    )


def count_once(
    network: nn.Module, sizes: Iterable[tuple[int, int, int]] = PATCH_SIZES, channels: int = 1
) -> Complexity:
    """`count_complexity`, which is asked only for a structure and size that it has not counted."""
    own, macs = structure(network), 0
    for size in sizes:
        key = (own, size, channels)
        if key not in _counted:
            _counted[key] = count_complexity(network, [size], channels)
        macs += _counted[key].macs
    return Complexity(sum(p.numel() for p in network.parameters()), macs)
