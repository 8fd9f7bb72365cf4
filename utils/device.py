"""Which device, and which arithmetic on it."""

from __future__ import annotations

import os

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def select_device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` -> device; a GPU that is not there is a ValueError.

    Under `torchrun` `auto` and `cuda` mean the GPU of this process's local rank.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: choose cpu, cuda, cuda:N or auto") from error
    if device.type == "cuda":
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices"
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise ValueError(f"--device {name}: choose cpu, cuda, cuda:N or auto")
    return device


def select_precision(name: str, device: torch.device) -> str:
    """`auto` -> the fastest of bf16, fp16, fp32 on this device; other names are kept.

    A CPU takes bf16 where oneDNN has it: PyTorch's float32 3D convolution falls to a slow kernel
    with few channels.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for a forward pass; disabled for fp32."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")
