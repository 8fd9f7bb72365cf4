"""The casts of CUDA's autocast, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What CUDA's autocast runs in the lower precision, and what in float32, of what the network calls.
LOWER = {
    *(torch.conv3d, torch.nn.functional.linear, torch.bmm),
    *(torch.matmul, Tensor.matmul, Tensor.__matmul__),
}
FLOAT32 = {torch.group_norm, torch.nn.functional.group_norm, torch.layer_norm}


class CudaAutocast(TorchFunctionMode):
    """The casts of `torch.autocast("cuda", torch.bfloat16)`.

    `device`: the type of the device whose `torch.autocast` says where they are made; everywhere if
    None.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        dtype = torch.bfloat16 if func in LOWER else torch.float32 if func in FLOAT32 else None
        if dtype is not None and (self.device is None or torch.is_autocast_enabled(self.device)):
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {key: _cast(value, dtype) for key, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_float else value
