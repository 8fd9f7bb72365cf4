"""From Hounsfield units to the network's [0, 1] (Sec. IV-A)."""

from __future__ import annotations

from torch import Tensor

HU_WINDOW = (-100.0, 240.0)  # Sec. IV-A
PAD_HU = -1024  # below the window: padding becomes 0


def window_hu(image_hu: Tensor) -> Tensor:
    """Clip to [-100, 240] HU and scale to [0, 1], float32 (Sec. IV-A)."""
    low, high = HU_WINDOW
    return (image_hu.float().clamp(low, high) - low) / (high - low)
