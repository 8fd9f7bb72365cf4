"""Two training processes on two cores against one on one: samples per second, and efficiency.

    python benchmarks/bench_processes.py [--epochs 2 12] [--rounds 3]

A whole training by the script, as torchrun starts it (gloo on a CPU), on synthetic cases, one
thread a process. Each length of training runs once in each round with one process and with two, in
turn; the difference of the two lengths is what the samples between them took, without start-up,
reading and the end. `efficiency`: samples per second of two processes over twice those of one,
median over the rounds; 1 is the best. It needs two idle cores, so the load is beside it; by
`cpu_efficiency`, the processors' seconds per sample, other work counts less, but waiting does not
count at all. `as_drawn`: the same of two processes whose samples share a step as they were drawn,
not by their size (`--sorted-steps 1`).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.machine import load_average
from data.phantom.make_centers import make_centers
from utils.arguments import Count
from utils.commands import ROOT, script
from utils.scripts import ArgumentParser

CENTERS = ("SYN-A", "SYN-B", "SYN-C")  # the last is the unseen one
STAGE = "tumor_coarse"
SPACING_MM = ("3.5", "2.8", "2.8")
# name -> how many processes, and further words of the command
VARIANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "1_processes": (1, ()),
    "2_processes": (2, ()),
    "as_drawn": (2, ("--sorted-steps", "1")),
}


@dataclass(frozen=True)
class Taken:
    """Of one training: seconds of the clock, and of all its processes' processors."""

    clock_s: float
    cpu_s: float

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.clock_s - other.clock_s, self.cpu_s - other.cpu_s)


def train(folder: Path, variant: str, epochs: int) -> Taken:
    """One training in a folder with centers and cache.

    Raises ValueError, with its end, if it fails.
    """
    processes, more = VARIANTS[variant]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        words = [sys.executable, *(launcher if processes > 1 else [])]
        words += [str(ROOT / script("train", STAGE)), "--centers", str(folder / "centers.toml")]
        words += ["--cache", str(folder / "cache"), "--checkpoints", runs, "--device", "cpu"]
        words += ["--sources", *CENTERS[:-1], "--target", CENTERS[-1], "--epochs", str(epochs)]
        words += ["--spacing", *SPACING_MM, "--width", "8", "--workers", "0"]
        words += ["--no-tensorboard", *more]
        before, started = _children_s(), time.perf_counter()
        done = subprocess.run(
            words,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        taken = Taken(time.perf_counter() - started, _children_s() - before)
    if done.returncode:
        raise ValueError(f"a training of {processes} process(es) failed: {done.stdout[-2000:]}")
    return taken


def _children_s() -> float:
    """Processors' seconds of all ended children and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(epochs: Sequence[int] = (2, 12), rounds: int = 3, cases: int = 4) -> dict[str, Any]:
    """Samples per second, processors' seconds per sample, efficiency. `epochs`: short, long.

    `cases`: of each of the two source centers.
    """
    short, long = epochs
    samples = (long - short) * 2 * cases
    taken: dict[str, list[Taken]] = {variant: [] for variant in VARIANTS}
    loads = [load_average()]
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        make_centers(folder, CENTERS, cases)
        train(folder, "1_processes", 1)  # prepares the cases
        for _ in range(rounds):
            for variant, of in taken.items():
                lengths = [train(folder, variant, number) for number in (short, long)]
                of.append(lengths[1] - lengths[0])
            loads.append(load_average())
    found: dict[str, Any] = {"samples": samples, "loads": loads, "cores": os.cpu_count()}
    found.update(_efficiencies(taken["1_processes"], taken["2_processes"]))
    for variant, of in taken.items():
        found[variant] = {
            "samples_per_s": samples / median(one.clock_s for one in of),
            "cpu_sample_s": median(one.cpu_s for one in of) / samples,
        }
    found["as_drawn"].update(_efficiencies(taken["1_processes"], taken["as_drawn"]))
    return found


def _efficiencies(one: Sequence[Taken], two: Sequence[Taken]) -> dict[str, float]:
    """Of two processes against one, by the clock and by the processors' time."""
    pairs = list(zip(one, two, strict=True))
    return {
        "efficiency": median(a.clock_s / (2 * b.clock_s) for a, b in pairs),
        "cpu_efficiency": median(a.cpu_s / b.cpu_s for a, b in pairs),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=Count, nargs=2, default=(2, 12), help="short and long")
    parser.add_argument("--rounds", type=Count, default=3)
    parser.add_argument("--cases", type=Count, default=4, help="of each source center")
    asked = parser.parse_args(argv)
    for name, value in measure(asked.epochs, asked.rounds, asked.cases).items():
        print(name, value)


if __name__ == "__main__":
    main()
