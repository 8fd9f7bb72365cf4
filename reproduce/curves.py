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
from reproduce.experiments.cells import choose_targets
from reproduce.experiments.curve_runs import CurveRequest, measure_curves
from reproduce.experiments.measuring import (
    asked_rows,
    asked_seeds,
    measuring_parser,
    run_measuring,
)
from reproduce.experiments.plan_arguments import plan_of
from utils.files import write_text
from utils.stages import STAGE_NAMES


def compute(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Measure what is missing, and note what made it."""
    plan = plan_of(args)
    request = CurveRequest(
        plan,
        args.out,
        args.stage,
        asked_rows(args),
        tuple(choose_targets(load_centers(plan.centers), args.targets, plan.centers)),
        asked_seeds(args, plan),
        args.cases,
        args.device,
    )
    missing = measure_curves(request)
    if missing:
        print(f"no finished training with snapshots: {'; '.join(missing)}", flush=True)
    note_extra(args.out / CURVES.folder, "reproduce/curves.py", words)


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
    parser = measuring_parser(__doc__, STAGE_NAMES, "tumor_coarse", "of each center the first N")
    run_measuring(parser, argv, compute, show)


if __name__ == "__main__":
    main()
