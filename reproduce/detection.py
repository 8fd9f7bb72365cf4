"""How well tumors are found: python reproduce/detection.py --results results/benchmark --out DIR

For every row of Tables V and VI and beside them that is evaluated: sensitivity of patients and of
lesions (by size), specificity on lesion-free scans, AUROC, average precision, calibration error,
for each unseen center. Without --results it reads an experiment's runs. Nothing is trained. Writes
detection.md, detection.csv and detection.tex.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.detection_table import make_detection_report
from reproduce.analysis.paper_tables import EVERY_ROW
from reproduce.analysis.render import to_latex, write_table
from reproduce.analysis.run_table import add_table_arguments, read_asked
from reproduce.experiments.plan_arguments import add_experiment_argument, add_plan_arguments
from utils.scripts import ArgumentParser, run_script


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add_table_arguments(parser)

    def show(args: argparse.Namespace) -> None:
        report = make_detection_report(*read_asked(EVERY_ROW, args))
        latex = "\n".join(map(to_latex, report.sheets)) + "\n"
        write_table(args.out or args.experiment, "detection", report.markdown, latex, report.csv)
        print(report.markdown)

    run_script(show, parser.parse_args(argv))


if __name__ == "__main__":
    main()
