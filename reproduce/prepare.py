"""Prepare every case before training: python reproduce/prepare.py --centers centers.toml

Trainings prepare what they need themselves; this does it once, with all processors, so that no
GPU waits for it and no two trainings do it twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.experiments.inputs import Preparation, prepare
from utils.arguments import Workers, real
from utils.scripts import ArgumentParser, run_script
from utils.settings import Range


def parse() -> Preparation:
    """Command line -> what to prepare."""
    default = Preparation()
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--centers", type=Path, default=default.centers, help="the file that lists the centers")
    add("--only", nargs="+", default=(), help="names of centers; none: all of them")
    add("--cache", type=Path, default=default.cache, help="where prepared cases are kept")
    add(
        "--spacing",
        type=real(Range(least=0.1, most=20)),
        nargs=3,
        default=default.spacing,
        help="voxel size, mm (z, y, x)",
    )
    add(
        "--workers",
        type=Workers,
        default=default.workers,
        help="processes; 0: one a processor",
    )
    given = vars(parser.parse_args())
    return Preparation(**given | {name: tuple(given[name]) for name in ("only", "spacing")})


if __name__ == "__main__":
    run_script(prepare, parse())
