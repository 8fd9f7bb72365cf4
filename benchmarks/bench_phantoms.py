"""Seconds of one synthetic case: drawn in memory, and written to disk as NIfTI.

    python benchmarks/bench_phantoms.py [--sizes demo full] [--cases 2]

Medians over the cases, by the process's own time; MiB are the compressed files'.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from benchmarks.timing import peak_mib
from data.phantom.generate import make_phantom
from data.phantom.make_centers import Job, make_case
from utils.arguments import Count
from utils.scripts import ArgumentParser

CENTER, SEED = "SYN-A", 2022


def measure(sizes: Sequence[str] = ("demo", "full"), cases: int = 2) -> dict[str, Any]:
    """By size: seconds of drawing and of drawing and writing, voxels, MiB of image and label."""
    found: dict[str, Any] = {}
    for size in sizes:
        drawn, made, voxels, mib = [], [], [], []
        for index in range(cases):
            started = time.process_time()
            phantom = make_phantom(CENTER, index, size, SEED)
            drawn.append(time.process_time() - started)
            voxels.append(phantom.image_hu.size)
            del phantom
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                job = Job(Path(folder), CENTER, index, size, SEED)
                started = time.process_time()
                make_case(job)
                made.append(time.process_time() - started)
                mib.append(sum(path.stat().st_size for path in job.files) / 2**20)
        found[size] = {
            "draw_s": median(drawn),
            "case_s": median(made),
            "million_voxels": median(voxels) / 1e6,
            "files_mib": median(mib),
        }
    return found | {"peak_mib": peak_mib()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=("demo", "full"), default=("demo", "full"))
    parser.add_argument("--cases", type=Count, default=2)
    asked = parser.parse_args(argv)
    for name, value in measure(asked.sizes, asked.cases).items():
        print(name, value)


if __name__ == "__main__":
    main()
