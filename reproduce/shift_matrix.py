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
from reproduce.analysis.paper_tables import EVERY_ROW, ROW_METHODS
from reproduce.analysis.shift_cases import SHIFTS
from reproduce.analysis.shift_losses import draw_heat_map, make_matrix, matrix_markdown
from reproduce.experiments.cells import choose_targets
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from reproduce.experiments.presets import PRESETS
from reproduce.experiments.shift_runs import (
    MEASURED,
    ShiftRequest,
    drawn_centers,
    measure_shifts,
    units_of,
)
from reproduce.experiments.trained import find_trained
from utils.arguments import Count, Seed
from utils.files import write_text
from utils.scripts import ArgumentParser, run_script


def compute(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Predict what is missing, note what made it, and show what is there then."""
    plan = plan_of(args)
    centers = load_centers(plan.centers)
    targets = choose_targets(centers, args.targets, plan.centers)
    names = args.rows or [row.name for row in EVERY_ROW.rows]
    rows = {name: ROW_METHODS[name] for name in names}
    seeds = args.seeds or PRESETS[plan.preset].seeds
    trained, missing = find_trained(plan, centers, rows, targets, seeds)
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
    show(args.out, args)


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
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="results/NAME, where cases are written")
    add("--results", type=Path, metavar="DIR", help="results/NAME to show; nothing is predicted")
    add("--rows", nargs="+", choices=tuple(ROW_METHODS), metavar="ROW", help="default: all trained")
    add("--targets", nargs="+", metavar="CENTER", help="default: all with lesions")
    add("--seeds", type=Seed, nargs="+", help="default: the preset's")
    changes = ", ".join((*IMAGE_SHIFTS, *PHANTOM_SHIFTS))
    add("--changes", nargs="+", metavar="CHANGE", help=f"default: all ({changes})")
    add("--cases", type=Count, metavar="N", help="of each target the first N with a lesion; all")
    add("--stage", choices=MEASURED, default="tumor_fine", help="to show (default: tumor_fine)")
    add("--device", default="auto", help="to predict on (default: auto)")
    text = "for the table and the picture (default: the experiment's folder)"
    add("--tables", type=Path, metavar="DIR", help=text)
    args = parser.parse_args(argv)
    if (args.out is None) == (args.results is None):
        parser.error("give --out to predict, or --results to show what is there")
    words = sys.argv[1:] if argv is None else argv
    if args.results is None:
        run_script(lambda asked: compute(asked, words), args)
    else:
        run_script(lambda asked: show(asked.results, asked), args)


if __name__ == "__main__":
    main()
