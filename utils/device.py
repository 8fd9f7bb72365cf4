"""Which device, which arithmetic on it, and what of its memory is free.

What a GPU is told, and why; the memory order of its convolutions is in models/gpu.py.

- Float32 is float32: no TF32, which keeps 10 bits, neither in products nor in convolutions. Views
  and losses are float32 so that they are exact, and `--precision fp32` asks for it; the network
  itself runs in 16 bits, which TF32 does not touch.
- cuDNN takes algorithms that repeat to the last bit: in float32 it takes others by itself.
- cuDNN tries its algorithms (`cudnn.benchmark`) only where input shapes repeat. It does so anew for
  each shape, and jittered crops of one scan alone take some 200 shapes in 800 epochs of a fine
  stage. On an H200 what it chose was no faster than what it takes by itself.
"""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# PyTorch raises a plain RuntimeError that names one of them.
ALLOCATION_FAILED = (
    *("DefaultCPUAllocator", "CUDA error: out of memory", "MPS backend out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)


def select_device(name: str, *, mps: bool = False) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:1` -> device; a GPU that is not there is a ValueError.

    Under `torchrun` `auto` and `cuda` mean the GPU of this process's local rank. `mps`: whether
    `mps`, and for `auto` without CUDA, Apple's GPU may be taken: only for prediction. With a GPU,
    float32 is exact from here on in the whole process (no TF32), and a seed makes a run repeatable.
    """
    choices = f"cpu, cuda, cuda:N{', mps' if mps else ''} or auto"
    has_mps = mps and torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: choose {choices}") from error
    if device.type == "cuda":
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"--device {name}: this machine shows {torch.cuda.device_count()} CUDA devices"
            )
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        return torch.device("cuda", index)
    if device.type == "mps" and mps and not has_mps:
        raise ValueError(f"--device {name}: this machine shows no Apple GPU to PyTorch")
    if device.type != "cpu" and not (device.type == "mps" and has_mps):
        raise ValueError(f"--device {name}: choose {choices}")
    return device


def select_precision(name: str, device: torch.device, *, training: bool) -> str:
    """`auto` -> what this device computes fast and well enough; other names are kept.

    A GPU trains in bf16, or fp16 where it has no bf16; it predicts in fp16, which rounds an eighth
    as much. A CPU predicts in fp32, since bf16 changes masks; it trains in bf16 where oneDNN has
    it, which is faster.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if training and has_bf16 else "fp16"
    return "bf16" if training and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def tune_convolutions(device: torch.device, *, shapes_repeat: bool) -> None:
    """Let cuDNN try its algorithms where the inputs' shapes repeat; nothing on a CPU."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = shapes_repeat


def free_memory(device: torch.device) -> int | None:
    """Bytes of a GPU that are free, or that PyTorch holds without use; None where not known."""
    if device.type != "cuda":
        return None
    free = torch.cuda.mem_get_info(device)[0]
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def device_name(device: torch.device, threads: int | None = None) -> str:
    """What computes: the GPU's name, or the processor's and how many of its threads are used.

    `threads`: of another process, that is to be started; None: of this one.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {threads or torch.get_num_threads()} threads"


def processor_name() -> str:
    """The processor's model, without the machine's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for a forward pass; disabled for fp32."""
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a GPU's or the machine's memory is too small."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error) if isinstance(error, RuntimeError) else ""
    return any(name in text for name in ALLOCATION_FAILED)


def peak_memory_mib(device: torch.device) -> float:
    """Most MiB held so far: of the GPU since `reset_peak_memory`, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def reset_peak_memory(device: torch.device) -> None:
    """Begin to count `peak_memory_mib` of a GPU anew; a process's own cannot be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
