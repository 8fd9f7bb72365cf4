"""How well tumors are found: python reproduce/detection.py --results results/benchmark --out DIR

For every row of Tables V and VI and beside them that is evaluated: sensitivity of patients and of
lesions (by size), specificity on lesion-free scans, AUROC, average precision, calibration error,
for each unseen center. Without --results it reads an experiment's runs. Nothing is trained. Writes
detection.md, detection.csv and detection.tex.

    python reproduce/detection.py --experiment FOLDER --results results/NAME --lesion-free

first predicts lesion-free scans of each synthetic target by every row of FOLDER that is trained,
and writes what was found to results/NAME/lesion_free/, which every later call reads. Killed, the
same command resumes; what is trained later is added. A real center's lesion-free scans are its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.centers import load_centers
from reproduce.analysis.detection_table import make_detection_report
from reproduce.analysis.export import note_extra
from reproduce.analysis.lesion_free import LESION_FREE, read_lesion_free
from reproduce.analysis.paper_tables import EVERY_ROW, ROW_METHODS
from reproduce.analysis.render import to_latex, write_table
from reproduce.analysis.run_table import add_table_arguments, read_asked
from reproduce.experiments.cells import choose_targets
from reproduce.experiments.lesion_free_runs import LesionFreeRequest, measure_lesion_free
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from reproduce.experiments.presets import PRESETS
from reproduce.experiments.shift_runs import drawn_centers
from reproduce.experiments.trained import find_trained
from utils.arguments import Count
from utils.scripts import ArgumentParser, run_script

DEFAULT_SCANS = 24


def predict(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Predict the lesion-free scans that are missing, and note what made them."""
    plan = plan_of(args)
    centers = load_centers(plan.centers)
    targets = choose_targets(centers, args.targets, plan.centers)
    drawn = drawn_centers(plan, targets)
    if drawn is None:
        raise ValueError(
            f"--lesion-free: {', '.join(targets)} of {plan.centers} are not all synthetic, so "
            "nothing can be drawn; lesion-free scans of a real center are cases of its own, which "
            "its evaluation has predicted"
        )
    seeds = args.seeds or PRESETS[plan.preset].seeds
    rows = {row.name: ROW_METHODS[row.name] for row in EVERY_ROW.rows}
    trained, missing = find_trained(plan, centers, rows, targets, seeds)
    if not trained:
        raise FileNotFoundError(
            f"{plan.checkpoints}: no row of the experiment {plan.time} has all four stages trained"
        )
    out = args.results or args.experiment
    request = LesionFreeRequest(plan, out, args.lesion_free, drawn, args.device)
    unknown = measure_lesion_free(request, trained)
    note_extra(out / LESION_FREE.folder, "reproduce/detection.py", words)
    for text, names in (
        ("not trained, so left out", missing),
        ("no held-out cases predicted, so left out", unknown),
    ):
        if names:
            print(f"{text}: {'; '.join(names)}", flush=True)


def show(args: argparse.Namespace) -> None:
    """Print and write the table of what is there."""
    rows, keys, source = read_asked(EVERY_ROW, args)
    free = read_lesion_free(args.results or args.experiment, rows, keys)
    report = make_detection_report(rows, keys, source, free)
    latex = "\n".join(map(to_latex, report.sheets)) + "\n"
    write_table(args.out or args.experiment, "detection", report.markdown, latex, report.csv)
    print(report.markdown)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add_table_arguments(parser)
    add = parser.add_argument
    text = "predict N lesion-free scans of each synthetic target first (default N: "
    add(
        "--lesion-free",
        type=Count,
        nargs="?",
        const=DEFAULT_SCANS,
        metavar="N",
        help=f"{text}{DEFAULT_SCANS})",
    )
    add("--device", default="auto", help="to predict them on (default: auto)")
    words = sys.argv[1:] if argv is None else argv

    def run(args: argparse.Namespace) -> None:
        if args.lesion_free is not None:
            predict(args, words)
        show(args)

    run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
