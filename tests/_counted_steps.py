"""Run by test_bench_step.py in a process of its own, since a device cannot be unregistered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.bench_step import configure, count_step
from benchmarks.counted_device import Counts, counted_device, counting
from benchmarks.step_crops import SOURCES, make_crops
from data.random_policy import GEOMETRIC, INTENSITY, Draw
from engine.checkpointing import NoCheckpoints, build_state
from engine.step import TrainingStep
from methods import METHODS
from utils.stages import COARSE, TUMOR_FINE

SMALL, LARGE = (24, 16, 16), (32, 32, 32)  # of crops, voxels (z, y, x)
FIELDS = ("image", "label", "mask", "sdm", "slice_labels", "positive", "negative")
KNOWN: dict[str, Callable[[Tensor], object]] = {  # of ten numbers on the device
    "a sum": lambda x: x + 1,
    "a view": lambda x: x[2:].view(2, 4),
    "two in place": lambda x: x.mul_(2).add_(1),
    "a number": lambda x: float(x.sum()),
    "a list": lambda x: x.tolist(),
    "a decision": lambda x: bool((x > 0).all()),
    "places": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "a histogram": lambda x: x.long().bincount(),
    "a tensor of numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a fill": lambda x: x.masked_fill(x > 0, 0.0),
    "a made tensor": lambda x: torch.zeros(3, device=x.device),
    "a tensor from the host": lambda x: torch.tensor([1.0]).to(x.device),
    "the same, not waited for": lambda x: torch.tensor([1.0]).to(x.device, non_blocking=True),
    "an index from the host": lambda x: x[torch.tensor([0, 1])],
}


def count_known() -> dict[str, tuple[int, int]]:
    """Launches and waits of each of `KNOWN`."""
    found = {}
    for name, operation in KNOWN.items():
        with counting() as counts:
            x = torch.arange(10.0, device=counted_device())
            counts.launches.clear()
            operation(x)
        found[name] = (counts.launches.total(), counts.waits.total())
    return found


def count_steps() -> dict[str, dict[str, dict[str, int]]]:
    """By name and part, the first step of each method in the fine tumor stage, and of others."""
    wanted = {method: (configure("tumor_fine", method), SMALL) for method in METHODS}
    wanted["coarse"] = configure("tumor_coarse", "ours"), SMALL
    wanted["larger"] = configure("tumor_fine", "ours"), LARGE
    wanted["two samples"] = configure("tumor_fine", "ours", accumulate=2), SMALL
    second = replace(TUMOR_FINE, second_channel=COARSE)
    wanted["two channels"] = replace(wanted["ours"][0], stage=second), SMALL
    return {name: parts(count_step(*each, before=0)) for name, each in wanted.items()}


def parts(counts: Counts) -> dict[str, dict[str, int]]:
    return {"launches": dict(counts.launches), "waits": dict(counts.waits)}


def count_operations() -> dict[str, tuple[int, int]]:
    """Launches and waits of each operation of DAM's policy."""
    found = {}
    image, label = torch.rand(1, 1, 4, 8, 8), torch.zeros(1, 1, 4, 8, 8, dtype=torch.uint8)
    for name in (*GEOMETRIC, *INTENSITY):
        draw = Draw(name, 0.5, 1.0, 1, True)
        with counting() as counts:
            on_device = [tensor.to(counted_device()) for tensor in (image, label)]
            counts.clear()
            if name in GEOMETRIC:
                GEOMETRIC[name](on_device[0], on_device[1], (2.0, 1.0, 1.0), draw)
            else:
                INTENSITY[name](on_device[0], draw, torch.Generator().manual_seed(0))
        found[name] = (counts.launches.total(), counts.waits.total())
    return found


def differences() -> tuple[list[str], float]:
    """The sample's fields that are not the CPU's to the bit, and how far the losses are from it."""
    config = replace(configure("tumor_fine", "ours"), precision="fp32")
    made, logged = [], []
    for device in (torch.device("cpu"), counted_device()):
        with counting():
            state = build_state(config, device, SOURCES)
            step = TrainingStep(config, state, NoCheckpoints(), 10)  # type: ignore[arg-type]
            state.method.train()
            (sample,) = step.take(make_crops(SMALL), 1)
            made.append([getattr(sample, name).cpu() for name in FIELDS])
            state.method.training_step([sample], step)
            logged.append(step.finish())
    other = [name for name, a, b in zip(FIELDS, *made, strict=True) if not torch.equal(a, b)]
    cpu, counted = logged
    return other, max(abs(counted[name] / cpu[name] - 1) for name in cpu)


if __name__ == "__main__":
    other, apart = differences()
    found = {"known": count_known(), "steps": count_steps(), "operations": count_operations()}
    print(json.dumps({**found, "other": other, "apart": apart}))
