"""A training step on a GPU: its seconds, the share of the matrix rate it reaches, what limits it.

    python benchmarks/bench_gpu_step.py [--stage tumor_fine] [--method ours] [--voxels 500000]

Whole steps as the loop takes them: sample, augmentation, views, network, losses, optimizer, log;
in bf16, width 32, on one crop at the stage's cap (or of `--voxels`), again and again. `step_s`:
seconds of a step by the clock, of `--steps` in a row; `gpu_s`: for how much of it kernels run, so
the rest is waiting for the host. `of_matrix_rate`: the network's multiply-accumulates of a step, in
`step_s`, over the rate of a bf16 product of 8192 x 8192 on the same GPU. `convolutions_s`,
`norms_s`, `products_s` and `other_s`: the kernels' seconds by kind; `convolutions_of_matrix_rate`
is what the step would reach if all but its convolutions took no time. `peak_gib`: the most that
PyTorch has held at once.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.benches import NOT_RUN
from benchmarks.machine import measure_bound
from benchmarks.step_crops import SOURCES, SPACING, make_crops, sides_of
from engine.checkpointing import NoCheckpoints, build_state
from engine.samples import SampleFeed
from engine.step import TrainingStep
from engine.training import set_checkpointing
from methods import make_config
from models.backbone import ResidualEncoderDecoder
from models.complexity import count_complexity
from utils.arguments import Count
from utils.device import device_name, select_device
from utils.scripts import ArgumentParser
from utils.stages import STAGES

WIDTH = 32  # the paper's
SMALL = 500_000  # voxels of a crop around a small lesion
VIEWS = {"bl": 1, "ours": 2}  # network passes of a sample
WARM_UP = 3
KINDS = {  # of kernels, by their names; the first that fits
    "norms": r"^_(sums|statistics|apply|gradient|gradient_sums|gradient_terms)_kernel$",
    "convolutions": r"xmma|implicit|convolve|cudnn|wgrad|dgrad|fprop",
    "products": r"gemm|nvjet|cutlass|splitK",
    "other": "",
}


def measure(
    stages: Sequence[str] = ("tumor_coarse", "tumor_fine"),
    methods: Sequence[str] = ("bl", "ours"),
    voxels: Sequence[int] = (0, SMALL),
    steps: int = 20,
) -> dict[str, Any]:
    """By stage, method and size; `voxels`: of a crop, 0 for the stage's cap."""
    if not torch.cuda.is_available():
        return {NOT_RUN: {"steps on a GPU": "a CUDA GPU"}}
    device = select_device("cuda")
    bound = measure_bound(device)
    found: dict[str, Any] = {"device": device_name(device), "bound": bound}
    for stage in stages:
        for method in methods:
            for wanted in voxels:
                sides = sides_of(wanted or STAGES[stage].max_voxels)
                name = f"{stage} {method} {' x '.join(map(str, sides))}"
                found[name] = measure_step(stage, method, sides, bound["bf16_gmac_per_s"], steps)
                torch.cuda.empty_cache()
    return found


def measure_step(
    stage: str, method: str, sides: tuple[int, int, int], rate: float, steps: int
) -> dict[str, Any]:
    """One stage, method and crop; `rate`: 1e9 multiply-accumulates a second."""
    device = torch.device("cuda", torch.cuda.current_device())
    config = make_config(
        *(STAGES[stage], method), width=WIDTH, spacing=SPACING, device="cuda", precision="bf16"
    )
    state = build_state(config, device, SOURCES)
    set_checkpointing(state.method, config.checkpointing)
    one = next(make_crops(sides))
    pinned = replace(one, image_hu=one.image_hu.pin_memory(), label=one.label.pin_memory())
    crops = (replace(pinned, index=number) for number in itertools.count())
    feed = SampleFeed(config, state, crops, 1)
    state.method.train()

    def take(count: int) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(count):
            step = TrainingStep(config, state, NoCheckpoints(), 1_000_000)  # type: ignore[arg-type]
            state.method.training_step(step.take_from(feed), step)
            step.finish()
            state.step += 1
            state.method.after_step(step)
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / count

    torch.cuda.reset_peak_memory_stats()
    take(WARM_UP)
    seconds = take(steps)
    peak = torch.cuda.max_memory_allocated()
    kinds = kernel_seconds(lambda: take(1))
    with torch.device("meta"):
        network = ResidualEncoderDecoder(width=WIDTH)
    gmac = 3 * VIEWS[method] * count_complexity(network, [sides]).macs / 1e9
    return {
        "step_s": seconds,
        "gpu_s": sum(kinds.values()),
        "network_gmac": gmac,
        "of_matrix_rate": gmac / rate / seconds,
        "convolutions_of_matrix_rate": gmac / rate / kinds["convolutions"],
        **{f"{kind}_s": taken for kind, taken in kinds.items()},
        "peak_gib": peak / 2**30,
    }


def kernel_seconds(step: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a step's kernels and copies by kind."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
    seconds = dict.fromkeys(KINDS, 0.0)
    for event in profiler.events():
        if event.device_type.name == "CUDA":
            kind = next(k for k, words in KINDS.items() if re.search(words, event.name))
            seconds[kind] += event.time_range.elapsed_us() / 1e6
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--stage", nargs="+", choices=tuple(STAGES), default=("tumor_coarse", "tumor_fine"))
    add("--method", nargs="+", choices=tuple(VIEWS), default=tuple(VIEWS))
    add("--voxels", type=Count, nargs="+", default=(0, SMALL), help="default: the cap, and less")
    add("--steps", type=Count, default=20)
    asked = parser.parse_args(argv)
    for name, value in measure(asked.stage, asked.method, asked.voxels, asked.steps).items():
        print(name)
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            print(f"  {part:30} {number if isinstance(number, str) else format(number, '.4f')}")


if __name__ == "__main__":
    main()
