"""Write the cases of finished evaluations as data: python reproduce/export_results.py --results DIR

The other arguments are those of reproduce/run.py that made the results, for example
python reproduce/export_results.py --results results/benchmark --what benchmark --out benchmark
DIR gets a CSV for each method and stage (one line per case), networks.csv and experiment.json.
Given again later it adds what has been finished since; nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.export import export_results
from reproduce.experiments.request import parse_request
from utils.scripts import ArgumentParser, run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--results", type=Path, required=True, metavar="DIR", help="results/<experiment>")
    add("--commit", help="of the code that trained; default: the one that is checked out")
    args, rest = parser.parse_known_args(argv)
    request = parse_request(__doc__, rest)

    def export(results: Path) -> None:
        exported = export_results(request, results, args.commit)
        print(*exported.paths, sep="\n")
        print(f"{exported.evaluations} evaluations written; not finished: {len(exported.not_run)}")
        print(*(f"  {line}" for line in exported.not_run), sep="\n")

    run_script(export, args.results)


if __name__ == "__main__":
    main()
