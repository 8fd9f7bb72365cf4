"""Compare settings on held-out cases of the sources: python reproduce/choose.py results/A results/B

Each folder holds a trial: `reproduce/run.py --what trial --phantom-seed N --method-options ...`,
exported by reproduce/export_results.py. The first is what the others are compared with. Unseen
centers are shown beside the sources only where the phantoms are not those of the benchmark: no
setting is chosen on a target of the benchmark.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.choice import choice_markdown, compare_trials, read_trial
from reproduce.experiments.presets import PRESETS
from utils.scripts import ArgumentParser, run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trials", nargs="+", type=Path, metavar="RESULTS")
    parser.add_argument("--method", default="ours", help="default: ours")
    args = parser.parse_args(argv)

    def choose(folders: Sequence[Path]) -> None:
        trials = [read_trial(folder) for folder in folders]
        reserved = str(PRESETS["small"].phantoms)
        print(choice_markdown(trials, compare_trials(trials, args.method, reserved)), end="")

    run_script(choose, args.trials)


if __name__ == "__main__":
    main()
