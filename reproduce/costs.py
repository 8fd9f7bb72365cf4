"""Count what each method costs: python reproduce/costs.py [METHOD ...]

Parameters and multiply-accumulates of its networks at the paper's size, and forward and backward
passes of a training step for each sample, counted by running some. Writes results/costs.csv, which
Table VI reads; needs no data. To be given again when a method is added or its network changes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from methods import METHODS
from reproduce.analysis.method_costs import write_costs
from utils.scripts import ArgumentParser, run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("methods", nargs="*", metavar="METHOD", help=f"default: all ({', '.join(METHODS)})")
    names = parser.parse_args(argv).methods or tuple(METHODS)
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        parser.error(f"unknown method {', '.join(unknown)}; choose from {', '.join(METHODS)}")
    run_script(lambda asked: print(write_costs(asked)), names)


if __name__ == "__main__":
    main()
