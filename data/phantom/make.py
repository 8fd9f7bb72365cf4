"""Make synthetic centers: python data/phantom/make.py OUT --cases 20 --size demo --seed 2022.

Writes OUT/<center>/ in the center's own on-disk layout, OUT/centers.toml which lists them for every
script of this project, OUT/cases.csv with what each case holds, and OUT/phantom.json with the
settings. Cases that are there already are kept, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.phantom.centers import CENTERS, LIKE_TABLE_I
from data.phantom.make_centers import make_centers
from utils.arguments import Count, Seed, Workers, real
from utils.scripts import ArgumentParser, run_script
from utils.settings import PROBABILITY


def main() -> None:
    """Command line."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument(
        "--centers",
        nargs="+",
        choices=sorted(CENTERS),
        help=f"default: {' '.join(LIKE_TABLE_I)}",
    )
    parser.add_argument("--cases", type=Count, default=20, help="cases per center (default: 20)")
    parser.add_argument("--size", choices=("demo", "full"), default="demo", help="default: demo")
    parser.add_argument("--seed", type=Seed, default=2022, help="default: 2022")
    parser.add_argument(
        "--workers", type=Workers, default=0, help="processes; 0: this one (default)"
    )
    text = "share of the cases of centers with lesions that have none; others do not change"
    parser.add_argument(
        "--lesion-free", type=real(PROBABILITY), default=0.0, help=f"{text} (default: 0)"
    )
    args = parser.parse_args()
    run_script(_make, args)


def _make(args: argparse.Namespace) -> None:
    print(make_centers(**vars(args)))


if __name__ == "__main__":
    main()
