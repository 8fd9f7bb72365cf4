"""Fig. 7, distances between the centroids of result and label: python reproduce/figure7.py

A panel per center and one of all cases; a box and the cases of each row of Table V and of every
other method that is evaluated; those that are not are named below. An empty result has no centroid:
how many there are is said beside each name. Writes figure7.png, figure7.pdf and figure7.csv
(medians and quartiles). With --results the cases are exported ones, and no checkpoint is needed.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import utils.script_start  # noqa: F401 - a signal ends it in one line
from reproduce.analysis.centroids import (
    Distances,
    Panels,
    distance_panels,
    figure_rows,
    rows_not_run,
    summarize_panels,
)
from reproduce.analysis.collect import cell_of, collect_rows
from reproduce.analysis.figures import (
    PAGE_IN,
    SMALL_PT,
    Request,
    make_parser,
    print_style,
    report_missing,
    request_of,
    save_figure,
    write_numbers,
)
from reproduce.analysis.pyplot import import_pyplot
from reproduce.analysis.rows import ResultKey, read_results
from utils.scripts import run_script

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 2  # panels beside each other
NOTE_LETTERS = 120  # that fit below them


def figure_keys(
    methods: Mapping[str, str], targets: Sequence[str], stage: str, seed: int, threshold: str
) -> dict[str, dict[str, ResultKey]]:
    """Row of the figure -> target -> its result; `methods`: row -> method."""
    return {
        row: {t: ResultKey(stage, t, method, seed, threshold=threshold) for t in targets}
        for row, method in methods.items()
    }


def draw_figure(panels: Panels, stage: str, not_run: Sequence[str] = ()) -> Figure:
    """`panels`: center, or "all centers" -> row -> distances (None: not evaluated).

    `not_run`: rows that are only named, below.
    """
    names = list(next(iter(panels.values())))
    lines = -(-len(panels) // COLUMNS)
    parts = [part for found in panels.values() for part in found.values() if part is not None]
    largest = max((float(part.values.max(initial=0.0)) for part in parts), default=0.0) or 1.0
    figure, axes = import_pyplot().subplots(
        *(lines, min(COLUMNS, len(panels))),
        figsize=(PAGE_IN, lines * (0.27 * len(names) + 0.6)),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, found) in zip(axes.flat, panels.items(), strict=False):
        draw_panel(axis, found)
        axis.set_title(title)
        axis.set_xlim(0, 1.03 * largest)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    text = f"distance between the centroids of result and label, {stage.replace('_', ' ')} (mm)"
    if not_run:
        text += "\n" + textwrap.fill(f"not run: {', '.join(not_run)}", NOTE_LETTERS)
    figure.supxlabel(text, fontsize=SMALL_PT)
    return figure


def draw_panel(axis: Axes, found: Mapping[str, Distances | None]) -> None:
    """A box (quartiles, whiskers to 1.5 of their distance) and every case, for each row."""
    import seaborn as sns

    there = {i: p.values for i, p in enumerate(found.values()) if p is not None and len(p.values)}
    line = {"color": "black", "linewidth": 0.7}
    if there:
        axis.boxplot(
            list(there.values()),
            positions=list(there),
            orientation="horizontal",
            widths=0.7,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": "0.85", "linewidth": 0.7},
            medianprops=line | {"linewidth": 1.8},
            whiskerprops=line,
            capprops=line,
        )
    for place, values in there.items():
        dots = {"color": "#0072b2", "alpha": 0.8, "size": 2.4, "jitter": 0.22}
        sns.stripplot(
            x=values, y=np.full(len(values), place), orient="h", ax=axis, native_scale=True, **dots
        )
    axis.set_yticks(range(len(found)), [_label(*item) for item in found.items()])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set(xlabel="", ylabel="")
    axis.grid(axis="x", color="0.9", linewidth=0.5)
    axis.set_axisbelow(True)


def _label(name: str, found: Distances | None) -> str:
    if found is None:
        return f"{name}: not evaluated"
    return f"{name}: {found.empty} of {found.cases} empty"


def run(request: Request, stage: str = "tumor_fine") -> list[Path]:
    """Draw the figure of a plan's runs; prints the medians and the commands of what is missing.

    Raises FileNotFoundError, with the commands, where no row is evaluated on any center.
    """
    keys = figure_keys(figure_rows(), request.targets, stage, request.seed, request.threshold)
    every = [key for of_row in keys.values() for key in of_row.values()]
    rows = collect_rows(request.plan, request.centers, every)
    panels = distance_panels(rows, keys)
    # A method that nobody has begun is no gap in this figure; a row of Table V is.
    shown = next(iter(panels.values()))
    needed = [cell_of(request.centers, key) for name in shown for key in keys[name].values()]
    if not rows.evaluations:
        report_missing(request.plan, needed, fatal=f"no {stage} is evaluated")
    paths = write_figure(panels, stage, request.out, rows_not_run(panels, keys))
    report_missing(request.plan, needed)
    return paths


def run_results(args: argparse.Namespace) -> list[Path]:
    """Draw the figure of exported cases. Raises FileNotFoundError where they have none of it."""
    rows = read_results(args.results)
    targets = args.targets or rows.centers
    keys = figure_keys(figure_rows(rows), targets, args.stage, args.seed, args.threshold)
    if not any(rows.select(key) for of_row in keys.values() for key in of_row.values()):
        raise FileNotFoundError(
            f"{args.results}: has no {args.stage} of seed {args.seed} on {' '.join(targets)}; it "
            f"has seeds {', '.join(map(str, rows.seeds))} and {' '.join(rows.centers)}"
        )
    panels = distance_panels(rows, keys)
    return write_figure(panels, args.stage, args.out, rows_not_run(panels, keys))


def write_figure(panels: Panels, stage: str, out: Path, not_run: Sequence[str] = ()) -> list[Path]:
    """Print the medians and what was not run; write figure7.png, figure7.pdf and figure7.csv."""
    summaries = summarize_panels(panels)
    for s in summaries:
        print(f"{s.center}, {s.row}: median {s.median:.1f} mm, {s.empty} of {s.cases} empty")
    if not_run:
        print(f"not run: {', '.join(not_run)}")
    with print_style():
        paths = save_figure(draw_figure(panels, stage, not_run), out, "figure7")
    write_numbers(out / "figure7.csv", [asdict(summary) for summary in summaries])
    return paths


def run_from(args: argparse.Namespace) -> list[Path]:
    """`run` or `run_results`, as the command line asks."""
    return run(request_of(args), args.stage) if args.results is None else run_results(args)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(str(__doc__))
    parser.add_argument("--stage", choices=("tumor_coarse", "tumor_fine"), default="tumor_fine")
    parser.add_argument("--results", type=Path, metavar="DIR", help="exported cases to draw")
    run_script(run_from, parser.parse_args(argv))


if __name__ == "__main__":
    main()
