"""What every trained row loses when the image changes in one known way: kernel, noise, contrast.

    python reproduce/shift_matrix.py --experiment FOLDER --out results/NAME
    python reproduce/shift_matrix.py --results results/NAME

The first predicts the unseen centers' cases of an experiment (--out of reproduce/run.py) under each
change of data/shifts.py at three strengths, with all four stages of every row that is trained, and
writes each case's Dice to results/NAME/shifts/. Killed, the same command resumes; what is trained
later is added. The second prints the losses against the unchanged image, with intervals, and writes
shift_matrix.md, .csv, .png and .pdf. Nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import utils.script_start  # noqa: F401 - a signal ends it in one line
from data.centers import load_centers
from data.shifts import IMAGE_SHIFTS, PHANTOM_SHIFTS
from reproduce.analysis.export import note_extra
from reproduce.analysis.figures import print_style, save_figure
from reproduce.analysis.shift_cases import SHIFTS
from reproduce.analysis.shift_losses import draw_heat_map, make_matrix, matrix_markdown
from reproduce.experiments.cells import choose_targets
from reproduce.experiments.measuring import (
    asked_rows,
    asked_seeds,
    measuring_parser,
    run_measuring,
)
from reproduce.experiments.plan_arguments import plan_of
from reproduce.experiments.shift_runs import (
    MEASURED,
    ShiftRequest,
    drawn_centers,
    measure_shifts,
    units_of,
)
from reproduce.experiments.trained import find_trained
from utils.files import write_text


def compute(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Predict what is missing, and note what made it."""
    plan = plan_of(args)
    centers = load_centers(plan.centers)
    targets = choose_targets(centers, args.targets, plan.centers)
    seeds = asked_seeds(args, plan)
    trained, missing = find_trained(plan, centers, asked_rows(args), targets, seeds)
    if missing:
        print(f"not trained, so left out: {'; '.join(missing)}", flush=True)
    if not trained:
        raise FileNotFoundError(
            f"{plan.checkpoints}: no row of the experiment {plan.time} has all four stages trained"
        )
    drawn = drawn_centers(plan, targets)
    units = units_of(args.changes, drawn is not None)
    request = ShiftRequest(plan, args.out, units, args.cases, args.device, drawn)
    measure_shifts(request, trained)
    note_extra(args.out / SHIFTS.folder, "reproduce/shift_matrix.py", words)


def show(folder: Path, args: argparse.Namespace) -> None:
    """Print and draw what `results/NAME` has."""
    matrix = make_matrix(SHIFTS.read_all(folder), args.stage, args.targets)
    text = matrix_markdown(matrix)
    out = args.tables or args.experiment
    write_text(out / "shift_matrix.md", text)
    write_text(out / "shift_matrix.csv", matrix.csv)
    with print_style():
        save_figure(draw_heat_map(matrix), out, "shift_matrix")
    print(text)


def main(argv: Sequence[str] | None = None) -> None:
    cases = "of each target the first N with a lesion"
    parser = measuring_parser(__doc__, MEASURED, "tumor_fine", cases)
    changes = ", ".join((*IMAGE_SHIFTS, *PHANTOM_SHIFTS))
    parser.add_argument("--changes", nargs="+", metavar="CHANGE", help=f"default: all ({changes})")
    run_measuring(parser, argv, compute, show)


if __name__ == "__main__":
    main()
