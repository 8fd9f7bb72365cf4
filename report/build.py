"""Results as one page to open in a browser: python report/build.py RESULTS

RESULTS is the folder of an experiment (--out of demo.py or reproduce/run.py), of an evaluation
(checkpoints/RUN/evaluation_...), of a run, or of exported cases (results/NAME). The page,
RESULTS/report.html unless --out says else, needs nothing beside itself: no network, no server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from report.page import MAX_BYTES, PICTURES, VIEWERS, build_report
from report.results import read_contents
from utils.arguments import Count, whole
from utils.scripts import ArgumentParser, run_script
from utils.settings import Range

FewOrNone = whole(Range(least=0, most=10_000))


def build(args: argparse.Namespace) -> None:
    """Write the page, and say where it is and how large."""
    contents = read_contents(args.results, args.centers, images=not args.no_images)
    path = build_report(
        args.out or args.results / "report.html",
        contents,
        viewers=args.viewers,
        pictures=args.pictures,
        max_bytes=args.megabytes * 1_000_000,
    )
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("results", type=Path, metavar="RESULTS", help="folder of results")
    add("--out", type=Path, metavar="FILE", help="the page; default: RESULTS/report.html")
    add("--centers", type=Path, help="where the images are; default: as the runs were trained")
    add("--no-images", action="store_true", help="numbers only: no patient's image in the page")
    add(
        "--viewers", type=FewOrNone, default=VIEWERS, help="cases to scroll through, worst and best"
    )
    add("--pictures", type=FewOrNone, default=PICTURES, help="cases with pictures of three planes")
    add("--megabytes", type=Count, default=MAX_BYTES // 1_000_000, help="size of the page at most")
    run_script(build, parser.parse_args(argv))


if __name__ == "__main__":
    main()
