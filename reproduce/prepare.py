"""Prepare every case before training: python reproduce/prepare.py --centers centers.toml

Trainings prepare what they need themselves; this does it once, with all processors, so that no
GPU waits for it and no two trainings do it twice.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.centers import load_centers
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PrepareSettings
from engine.command_line import run_script
from utils.config import Config
from utils.stages import STAGES

MAX_WORKERS = 16  # a full CT takes some 2 GB while it is resampled


def prepare(argv: Sequence[str] | None = None) -> None:
    """Fill the cache. Raises ValueError for an unknown center or data that cannot be read."""
    default = Config(next(iter(STAGES.values())))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--centers", type=Path, default=default.centers, help="the file that lists the centers")
    add("--only", nargs="+", help="names of centers; none: all of them")
    add("--cache", type=Path, default=default.cache, help="where prepared cases are kept")
    add("--spacing", type=float, nargs=3, default=default.spacing, help="voxel size, mm (z, y, x)")
    add("--workers", type=int, default=count_workers(), help="processes")
    args = parser.parse_args(argv)
    centers = load_centers(args.centers)
    names = list(centers) if args.only is None else args.only
    unknown = [name for name in names if name not in centers]
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: choose from {', '.join(centers)}")
    z, y, x = args.spacing
    settings = PrepareSettings(spacing=(z, y, x))
    found = prepare_centers([centers[n] for n in names], args.cache, settings, args.workers)
    for name, cases in found.items():
        print(f"{name}: {len(cases)} cases in {args.cache}", flush=True)


def count_workers() -> int:
    """A process for each processor that this process may use, at most `MAX_WORKERS`."""
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


if __name__ == "__main__":
    run_script(prepare, None)
