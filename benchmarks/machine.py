"""The machine that a benchmark runs on: what it is, how busy it is, and what it can do at most."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from utils.device import device_name, processor_name

PACKAGES = (
    *("torch", "numpy", "scipy", "SimpleITK", "monai", "nnunetv2", "MedPy", "scikit-image"),
    *("surface-distance", "surface-distance-based-measures"),
)
SIDE, COPY_MIB = 1024, 64  # of the product, and of the copy: larger than a processor's caches
ROUNDS = 7


def describe_machine(threads: int) -> dict[str, Any]:
    """What two results must share for their seconds to be compared."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "memory_gib": round(pages / 2**30),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
    }


def versions() -> dict[str, str]:
    """Python and the packages that are measured; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load_average() -> float:
    """Processes that wanted to run in the last minute, on average; the cores are shared by them."""
    return round(os.getloadavg()[0], 2)


def measure_bound(device: torch.device | None = None, rounds: int = ROUNDS) -> dict[str, Any]:
    """The rates that no code on this machine exceeds: products of matrices, and copying.

    In 1e9 multiply-accumulates a second for float32, bf16 and, on a GPU, fp16, and 1e9 bytes read
    or written a second, the best of several; on a CPU of one thread, by the process's own time.
    """
    device = device or torch.device("cpu")
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    found: dict[str, Any] = {"device": device_name(device)}
    side = 8 * SIDE if device.type == "cuda" else SIDE
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device.type == "cuda":
        dtypes["fp16"] = torch.float16
    for name, dtype in dtypes.items():
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        seconds = [_timed(lambda: torch.mm(a, b, out=out), device, clock) for _ in range(rounds)]  # noqa: B023
        found[f"{name}_gmac_per_s"] = side**3 / min(seconds) / 1e9
    source = torch.empty(COPY_MIB << 20, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    seconds = [_timed(lambda: target.copy_(source), device, clock) for _ in range(rounds)]
    found["copy_gb_per_s"] = 2 * source.numel() / min(seconds) / 1e9
    return found


def _timed(way: Any, device: torch.device, clock: Any) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = clock()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started
