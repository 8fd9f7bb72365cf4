"""How often a training step makes the host wait for the GPU, and how much it launches there.

    python benchmarks/bench_step.py
    python benchmarks/bench_step.py --method ours saml --stage tumor_fine --detail losses

Counted without a GPU, on a device that holds its numbers in the CPU's memory
(benchmarks/counted_device.py says what is a launch and what a wait), by part of the step, for every
method in all four stages: in bf16 by CUDA's autocast rules, with a crop that is resized, everything
that a method does in some steps by default, the largest kernels, and activations kept. The status
is 1 where a step waits more than 4 times, or the sample and its losses, forward and backward,
launch more than `LAUNCHES` says. Where there is a GPU, PyTorch's own counts are printed too.

What a step waits for: the log's values, read once for each optimizer's update, before it; and of a
sample the box around its target where a target or loss needs one, and the cells of its anchors
(Eq. 8). So a step of n samples (`--accumulate`, or one of each source) waits 2 n + 1 times at most,
with one optimizer; DART has one for each copy. No loss reads anything else: what is in a region is
chosen by sums over masks. In fp16, which is not counted, the loss scale is read too, and whether a
gradient is infinite.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.profiler import ProfilerActivity, profile

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.counted_device import NAME, Counts, counted_device, counting
from benchmarks.cuda_autocast import CudaAutocast
from benchmarks.step_crops import SOURCES, SPACING, make_crops
from data.dataset import ONE_PER_CENTER, Crop
from engine.checkpointing import NoCheckpoints, State, build_state
from engine.step import TrainingStep
from engine.training import set_checkpointing
from methods import METHODS, make_config
from models.backbone import ResidualEncoderDecoder
from utils.arguments import Count
from utils.config import Config
from utils.scripts import ArgumentParser
from utils.settings import flatten
from utils.stages import STAGES

MOST_WAITS = 4  # of a step, for each sample that `--accumulate` gives it
MOST_LAUNCHES = 400
LAUNCHES = {  # of the sample and its losses, where a method needs more than that, and why
    "saml": (500, "two samples; contour and ring of each, their triplets, and the virtual step"),
}
WIDTH = 8  # of the network: its launches do not depend on it
# Of the crops, voxels (z, y, x). Waits do not depend on it, nor do launches but for the blocks of
# the distance map and a copy more or less: where that map's axes change their order, or a target's
# box with its margin fills the crop.
SHAPE = (24, 24, 24)
HOOKS = {"augment": "augmentation", "make_views": "views"}
WAYS = ("forward", "encode", "decode", "read_out", "read")  # into a network
WORST: dict[str, dict[str, Any]] = {"dart": {"own_ratio": 1.0}}  # each copy sees each sample
PARTS = {  # name -> whether it belongs to the sample and its losses
    "sample": True,
    "augmentation": True,
    "views": True,
    "network forward": False,
    "losses": True,
    "losses backward": True,
    "network backward": False,
    "optimizer": False,
    "log": False,
    "after the step": False,
}


@dataclass(frozen=True)
class Row:
    """A method in a stage, as it was counted."""

    stage: str
    method: str
    counts: Counts
    accumulate: int = 1

    @property
    def waits(self) -> int:
        """Of the whole step."""
        return sum(self.counts.waits.values())

    @property
    def launches(self) -> int:
        """Of the sample and its losses."""
        return sum(self.counts.launches[part] for part, counted in PARTS.items() if counted)


def configure(stage: str, method: str, **values: Any) -> Config:
    """A configuration that does in each step all that its defaults do in some."""
    changes: dict[str, Any] = dict(WORST.get(method, {}))
    for name, _, value in flatten(make_config(STAGES[stage], method).settings):
        if name.endswith("probability") and value > 0:
            changes[name] = 1.0
        elif name.endswith("kernel_sizes"):
            changes[name] = (max(value),)
    return make_config(
        STAGES[stage],
        method,
        changes,
        width=WIDTH,
        spacing=SPACING,
        device="cpu",
        precision="bf16",
        checkpointing="off",
        **values,
    )


def count_step(config: Config, shape: Sequence[int], before: int = 1) -> Counts:
    """A step of a training, behind others that do not count: the first makes optimizers' state."""
    crops = make_crops(shape)
    with counting() as counts, CudaAutocast(NAME):
        state = build_state(config, counted_device(), SOURCES)
        set_checkpointing(state.method, config.checkpointing)
        watch_parts(state, counts)
        for _ in range(before + 1):
            counts.clear()
            take_step(config, state, crops, counts)
    return counts


def take_step(config: Config, state: State, crops: Iterator[Crop], counts: Counts) -> None:
    """One step as the loop takes it."""
    step = TrainingStep(config, state, NoCheckpoints(), 100)  # type: ignore[arg-type]
    step.backward = within(counts, "losses backward", step.backward)  # type: ignore[method-assign]
    step.update = within(counts, "optimizer", step.update)  # type: ignore[method-assign]
    state.method.train()
    group = len(SOURCES) if state.method.sampling == ONE_PER_CENTER else 1
    with counts.at("sample"):
        samples = step.take(crops, group * config.accumulate)
    with counts.at("losses"):
        state.method.training_step(samples, step)
    with counts.at("log"):
        step.finish()
    state.step += 1
    with counts.at("after the step"):
        state.method.after_step(step)


def within(counts: Counts, part: str, function: Any, backward: str | None = None) -> Any:
    """The function, counted as that part, and its gradient as the part `backward`."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        with counts.at(part, backward):
            return function(*args, **kwargs)

    return counted


def watch_parts(state: State, counts: Counts) -> None:
    """Have the method's hooks and its networks counted as parts of their own."""
    method: Any = state.method
    counts.accumulation = "network backward"
    for name, part in HOOKS.items():
        if hasattr(method, name):
            setattr(method, name, within(counts, part, getattr(method, name)))

    networks = [part for part in method.modules() if isinstance(part, ResidualEncoderDecoder)]
    for network, name in itertools.product(networks, WAYS):
        if hasattr(network, name):
            function = within(counts, "network forward", getattr(network, name), "network backward")
            setattr(network, name, function)


def count_all(
    shape: Sequence[int], stages: Sequence[str], methods: Sequence[str], accumulate: int = 1
) -> list[Row]:
    """Every one of the methods in every one of the stages."""
    return [
        Row(
            stage,
            method,
            count_step(configure(stage, method, accumulate=accumulate), shape),
            accumulate,
        )
        for stage, method in itertools.product(stages, methods)
    ]


def most_launches(method: str) -> int:
    """How many launches are allowed for a step's samples and their losses."""
    return LAUNCHES[method][0] if method in LAUNCHES else MOST_LAUNCHES


def exceeded(rows: Sequence[Row]) -> list[str]:
    """What is above the limits."""
    return [
        f"{row.stage} {row.method}: {number} {what}, at most {most} are allowed"
        for row in rows
        for what, number, most in (
            ("waits in a step", row.waits, MOST_WAITS * row.accumulate),
            (
                "launches for the sample and its losses",
                row.launches,
                most_launches(row.method) * row.accumulate,
            ),
        )
        if number > most
    ]


def to_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each row: waits, launches of sample and losses; by part launches/waits."""
    width = max(map(len, PARTS)) + 2
    titles = ("waits", "sample, losses", *PARTS)
    lines = [f"{'launches/waits':28}" + "".join(f"{title:>{width}}" for title in titles)]
    for row in rows:
        cells = [str(row.waits), str(row.launches)]
        for part in PARTS:
            launches, waits = row.counts.launches[part], row.counts.waits[part]
            cells.append(f"{launches}/{waits}" if waits else str(launches))
        lines.append(
            f"{row.stage:16}{row.method:12}" + "".join(f"{cell:>{width}}" for cell in cells)
        )
    return lines


def measure_on_gpu(config: Config, shape: Sequence[int]) -> tuple[int, int]:
    """What PyTorch itself counts in a step on the GPU: warnings of waits, and kernels."""
    state = build_state(config, torch.device("cuda"), SOURCES)
    set_checkpointing(state.method, config.checkpointing)
    pinned = (
        replace(crop, image_hu=crop.image_hu.pin_memory(), label=crop.label.pin_memory())
        for crop in make_crops(shape)
    )
    unused = Counts()
    take_step(config, state, pinned, unused)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            take_step(config, state, pinned, unused)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = sum("synchroniz" in str(warning.message) for warning in caught)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        take_step(config, state, pinned, unused)
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.device_type.name == "CUDA"]
    return waits, len(kernels)


def measure_all_on_gpu(
    shape: Sequence[int], stages: Sequence[str], methods: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """By stage and method; nothing without a GPU.

    To be called before `count_all`, whose device would from then on be the one to pin memory for.
    """
    if not torch.cuda.is_available():
        return {}
    return {
        f"{stage} {method}": measure_on_gpu(configure(stage, method), shape)
        for stage, method in itertools.product(stages, methods)
    }


def measure(
    shape: Sequence[int] = SHAPE,
    stages: Sequence[str] = tuple(STAGES),
    methods: Sequence[str] = tuple(METHODS),
) -> dict[str, Any]:
    """The counts of stages and methods, by part, and PyTorch's own where there is a GPU."""
    on_gpu = measure_all_on_gpu(shape, stages, methods)
    found: dict[str, Any] = {}
    for row in count_all(shape, stages, methods):
        name = f"{row.stage} {row.method}"
        found[name] = {
            "waits": row.waits,
            "launches_of_sample_and_losses": row.launches,
            "launches": {part: row.counts.launches[part] for part in PARTS},
        }
        if name in on_gpu:
            waits, kernels = on_gpu[name]
            found[name] |= {"gpu_waits": waits, "gpu_kernels_and_copies": kernels}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts; 1 where one is above its limit."""
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--method", nargs="+", choices=tuple(METHODS), default=tuple(METHODS), help="default: all")
    add("--stage", nargs="+", choices=tuple(STAGES), default=tuple(STAGES), help="default: all")
    add("--accumulate", type=Count, default=1, help="samples, or groups of them, of a step")
    add("--shape", type=Count, nargs=3, default=SHAPE, help="z y x of the crops")
    add("--detail", choices=tuple(PARTS), help="name the operations of this part")
    args = parser.parse_args(argv)
    on_gpu = measure_all_on_gpu(args.shape, args.stage, args.method)
    rows = count_all(args.shape, args.stage, args.method, args.accumulate)
    print(*to_lines(rows), sep="\n")
    for row in rows if args.detail else ():
        print(f"\n{row.stage} {row.method}: {args.detail}")
        named = Counter(
            {
                (kind, name): number
                for (kind, part, name), number in row.counts.operations.items()
                if part == args.detail
            }
        )
        for (kind, name), number in named.most_common():
            print(f"{number:6} {kind:7} {name}")
    for name, (waits, kernels) in on_gpu.items():
        gpu = torch.cuda.get_device_name()
        print(f"{gpu}, {name}: {waits} waits, {kernels} kernels and copies")
    if not on_gpu:
        print("no GPU here: PyTorch's own counts are not measured")
    above = exceeded(rows)
    print(*above, sep="\n")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
