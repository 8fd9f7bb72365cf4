"""Whether a GPU runs the network channels-last: in 16 bits, where Triton's kernels run."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from utils.errors import first_line

HALF_TYPES = (torch.bfloat16, torch.float16)

log = logging.getLogger(__name__)


def runs_channels_last(x: Tensor) -> bool:
    """Whether convolutions and norms of `x` run in memory order (b, z, y, x, c)."""
    if x.device.type != "cuda":
        return False
    return computing_dtype(x) in HALF_TYPES and kernels_run(x.device.index)


def computing_dtype(x: Tensor) -> torch.dtype:
    """What a GPU's convolution of `x` is computed in: autocast's type, else that of `x`."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype


@functools.cache
def kernels_run(index: int) -> bool:
    """Whether this GPU runs them; a warning says why not.

    They are compiled at their first call, by Triton and a C compiler, which may not be there.
    """
    try:
        from models.gpu_norm import GpuNormReLU

        x = torch.zeros(1, 8, 1, 1, 1, dtype=torch.float16, device=torch.device("cuda", index))
        GpuNormReLU.apply(x, x.new_ones(8).float(), x.new_zeros(8).float(), 8, 1e-5)
    except Exception as error:  # of many kinds: import, compiler, driver
        log.warning(
            "Triton does not run on this GPU, so the network's norms are PyTorch's, which are "
            "slower and need more memory (%s)",
            first_line(error),
        )
        return False
    return True
