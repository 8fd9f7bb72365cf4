"""Dice over a training, on held-out source cases and on the unseen center: does more of it help?

    python reproduce/run.py --what trial --options='--snapshot-epochs 1' --out FOLDER
    python reproduce/curves.py --experiment FOLDER --out results/NAME
    python reproduce/curves.py --results results/NAME

The second measures the snapshots of an experiment's finished trainings, in crops around the label,
and writes each case's Dice to results/NAME/curves/. Killed, the same command resumes. The third
prints them and writes curves.md, .png and .pdf. Nothing is trained, and nothing that is measured
here can have decided anything in a training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.centers import load_centers
from reproduce.analysis.curves import CURVES, curves_markdown, draw_curves
from reproduce.analysis.export import note_extra
from reproduce.analysis.figures import print_style, save_figure
from reproduce.analysis.paper_tables import EVERY_ROW, ROW_METHODS
from reproduce.experiments.cells import choose_targets
from reproduce.experiments.curve_runs import CurveRequest, measure_curves
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from reproduce.experiments.presets import PRESETS
from utils.arguments import Count, Seed
from utils.files import write_text
from utils.scripts import ArgumentParser, run_script
from utils.stages import STAGE_NAMES


def compute(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Measure what is missing, note what made it, and show what is there then."""
    plan = plan_of(args)
    names = args.rows or [row.name for row in EVERY_ROW.rows]
    request = CurveRequest(
        plan,
        args.out,
        args.stage,
        {name: ROW_METHODS[name] for name in names},
        tuple(choose_targets(load_centers(plan.centers), args.targets, plan.centers)),
        tuple(args.seeds or PRESETS[plan.preset].seeds),
        args.cases,
        args.device,
    )
    missing = measure_curves(request)
    if missing:
        print(f"no finished training with snapshots: {'; '.join(missing)}", flush=True)
    note_extra(args.out / CURVES.folder, "reproduce/curves.py", words)
    show(args.out, args)


def show(folder: Path, args: argparse.Namespace) -> None:
    """Print and draw what `results/NAME` has of the stage."""
    points = [
        point
        for point in CURVES.read_all(folder)
        if point.stage == args.stage and (args.targets is None or point.target in args.targets)
    ]
    if not points:
        raise ValueError(f"{folder / CURVES.folder}: nothing of {args.stage} is there")
    text = curves_markdown(points, args.stage)
    out = args.tables or args.experiment
    write_text(out / "curves.md", text)
    with print_style():
        save_figure(draw_curves(points), out, "curves")
    print(text)


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="results/NAME, where cases are written")
    add("--results", type=Path, metavar="DIR", help="results/NAME to show; nothing is measured")
    add("--rows", nargs="+", choices=tuple(ROW_METHODS), metavar="ROW", help="default: all")
    add("--targets", nargs="+", metavar="CENTER", help="default: all with lesions")
    add("--seeds", type=Seed, nargs="+", help="default: the preset's")
    add("--stage", choices=STAGE_NAMES, default="tumor_coarse", help="default: tumor_coarse")
    add("--cases", type=Count, metavar="N", help="of each center the first N; default: all")
    add("--device", default="auto", help="to predict on (default: auto)")
    text = "for the table and the picture (default: the experiment's folder)"
    add("--tables", type=Path, metavar="DIR", help=text)
    args = parser.parse_args(argv)
    if (args.out is None) == (args.results is None):
        parser.error("give --out to measure, or --results to show what is there")
    words = sys.argv[1:] if argv is None else argv
    if args.results is None:
        run_script(lambda asked: compute(asked, words), args)
    else:
        run_script(lambda asked: show(asked.results, asked), args)


if __name__ == "__main__":
    main()
