"""Recompute the numbers of docs/gpu.md: python benchmarks/gpu_numbers.py [--check]

They are what `run.py` has measured on a GPU (benchmarks/results_gpu.json). --check writes nothing
and exits with status 1 where the page and the numbers differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.page_block import refresh
from utils.commands import ROOT
from utils.files import read_json
from utils.scripts import ArgumentParser, run_script

NEEDED = ("gpu_step", "network", "inference", "memory", "cascade", "step")
LINES = {  # of bench_network.py, and what they are called on the page
    "bf16": "ours, bf16",
    "bf16, PyTorch's own layers": "the same network of PyTorch's layers, bf16",
    "bf16, contiguous": "ours without channels-last and its kernels, bf16",
    "nnU-Net's PlainConvUNet, bf16": "nnU-Net's PlainConvUNet of the same width, bf16",
    "float32": "ours, float32 (no TF32)",
    "float32, PyTorch's own layers": "the same network of PyTorch's layers, float32",
}
WAYS = {"ours": "ours", "plain": "PyTorch's layers, one by one", "monai": "MONAI's sliding window"}
MEMORY = {
    "bf16_gib": "kept for the backward pass, counted",
    "gpu_peak_gib": "most at once, both passes of the network",
    "gpu_again_peak_gib": "the same, levels computed again",
    "gpu_plain_peak_gib": "the same, PyTorch's norm under autocast",
    "planned_gib": "what `--checkpointing auto` reckons with, for a whole step",
}


def render(result: Mapping[str, Any]) -> str:
    """The page's block of numbers, as Markdown. Raises ValueError for a bench that is not there."""
    benches = result["benches"]
    absent = [name for name in NEEDED if benches.get(name, {}).get("status") != "done"]
    if absent:
        raise ValueError(f"no {', '.join(absent)}; run benchmarks/run.py --only {' '.join(absent)}")
    values = {name: benches[name]["values"] for name in NEEDED}
    dates = sorted({benches[name]["date"][:10] for name in NEEDED})
    commits = sorted({benches[name]["commit"] for name in NEEDED})
    bound, machine = values["gpu_step"]["bound"], result["machine"]
    lines = [
        f"{' and '.join(dates)}, {values['gpu_step']['device']}, {machine['cores']} cores of "
        f"{machine['processor']}, torch {result['versions']['torch']}, one thread, "
        f"commit {', '.join(commits)}. Products of 8192 x 8192 in bf16 ran at "
        f"{bound['bf16_gmac_per_s'] / 1e3:.0f} x 10^12 multiply-accumulates a second.",
        "",
        *_steps(values["gpu_step"]),
        "",
        *_network(values["network"], benches["network"]["arguments"]["size"]),
        "",
        *_inference(values["inference"], benches["inference"]["arguments"]["size"]),
        "",
        *_memory(values["memory"]),
        "",
        *_cascade(values["cascade"]),
        *_waits(values["step"]),
    ]
    return "\n".join(lines)


def _steps(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each whole training step."""
    yield (
        "| training step, width 32, bf16 | ms | kernels run, ms | convolutions | norms | products "
        "| rest | of the matrix rate | its convolutions alone | GiB |"
    )
    yield "| --- |" + " --- |" * 9
    for name, row in values.items():
        if not isinstance(row, Mapping) or "step_s" not in row:
            continue
        parts = (row[f"{kind}_s"] for kind in ("convolutions", "norms", "products", "other"))
        times = (row["step_s"], row["gpu_s"], *parts)
        shares = (row["of_matrix_rate"], row["convolutions_of_matrix_rate"])
        yield (
            f"| {name.replace('_', ' ')} | "
            + " | ".join(f"{1e3 * seconds:.1f}" for seconds in times)
            + " | "
            + " | ".join(f"{100 * share:.0f} %" for share in shares)
            + f" | {row['peak_gib']:.1f} |"
        )


def _network(values: Mapping[str, Any], size: Sequence[int]) -> Iterator[str]:
    """A line for each network: a step and a forward pass."""
    yield (
        f"| two views of {' x '.join(map(str, size))} | step, ms | times ours in bf16 "
        "| forward, ms | times ours in bf16 |"
    )
    yield "| --- |" + " --- |" * 4
    for name, text in LINES.items():
        if name not in values["step"]:
            continue
        cells = []
        for kind in ("step", "forward"):
            row = values[kind][name]
            cells += [f"{1e3 * row['median_s']:.1f}", f"{row['against_bf16_ratio']:.2f}"]
        yield f"| {text} | {' | '.join(cells)} |"


def _inference(values: Mapping[str, Any], size: Sequence[int]) -> Iterator[str]:
    """A line for each way to predict a crop with all mirrors."""
    yield (
        f"| a crop of {' x '.join(map(str, size))}, eight mirrored inputs, {values['precision']} "
        "| ms | times ours |"
    )
    yield "| --- | --- | --- |"
    for name, text in WAYS.items():
        ratio = values.get(f"{name}_ratio", 1.0)
        yield f"| {text} | {1e3 * values[f'{name}_s']:.0f} | {ratio:.2f} |"


def _memory(values: Mapping[str, float]) -> Iterator[str]:
    """A line for each kind of memory."""
    stages = ("tumor_coarse", "tumor_fine")
    yield "| GiB at the cap, two views, width 32, bf16 | tumor coarse | tumor fine |"
    yield "| --- | --- | --- |"
    for kind, text in MEMORY.items():
        cells = " | ".join(f"{values[f'{stage}_{kind}']:.1f}" for stage in stages)
        yield f"| {text} | {cells} |"


def _cascade(values: Mapping[str, Any]) -> Iterator[str]:
    """The seconds of a CT."""
    yield (
        f"- A CT of {values['million_voxels']:.0f} million voxels (compressed NIfTI, "
        f"{values['file_mib']:.0f} MiB), four stages, {values['passes']} passes with all mirrors "
        f"(one round of each stage is eight), from file to files: "
        f"{values['all_s']:.1f} s by the clock, {values['in_a_row_s']:.1f} s each in a row. The "
        f"networks' passes take {values['networks_s']:.2f} s of it, those of the tumor stages "
        f"{values['tumor_networks_s']:.2f} s."
    )


def _waits(values: Mapping[str, Any]) -> Iterator[str]:
    """What PyTorch counts in a step of each method that was measured."""
    counts = ", ".join(
        f"{name.split()[1]} {row['gpu_waits']} and {row['gpu_kernels_and_copies']}"
        for name, row in values.items()
        if "gpu_waits" in row
    )
    yield f"- Waits, and kernels and copies, of a step by PyTorch's own count: {counts}."


def write(asked: argparse.Namespace) -> None:
    """Write the page, or compare it."""
    result = read_json(asked.results, "make it by benchmarks/run.py", ("benches", "machine"))
    refresh(asked.page, render(result), Path(__file__).name, check=asked.check)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--results", type=Path, default=ROOT / "benchmarks" / "results_gpu.json")
    add("--page", type=Path, default=ROOT / "docs" / "gpu.md")
    add("--check", action="store_true", help="compare only")
    run_script(write, parser.parse_args(argv))


if __name__ == "__main__":
    main()
