"""Fig. 7, distances between the centroids of result and label: python reproduce/figure7.py

A panel per center and one of all cases; a box and the cases of each row of Table V and of every
other method that is evaluated. An empty result has no centroid: how many there are stands beside
each name. Writes figure7.png, figure7.pdf and figure7.csv (medians and quartiles).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from engine.command_line import run_script
from methods import METHODS
from reproduce.analysis.figures import (
    PAGE_IN,
    SMALL_PT,
    CellResult,
    Request,
    find_result,
    is_measured,
    make_parser,
    print_style,
    report_missing,
    request_of,
    save_figure,
    write_numbers,
)
from reproduce.analysis.paper_tables import TABLE5_METHODS as VARIANTS
from reproduce.experiments.cells import Cell

POOLED = "all centers"
COLUMNS = 2  # panels beside each other


@dataclass(frozen=True)
class Distances:
    """The centroid distances (mm) of one row on one center; `cases` with a lesion in the label.

    A case without a distance has an empty result: there are `cases - len(values)` of them.
    """

    cases: int
    values: np.ndarray

    @property
    def empty(self) -> int:
        """Cases in which nothing was found."""
        return self.cases - len(self.values)


@dataclass(frozen=True)
class Summary:
    """One line of figure7.csv; distances in mm, over the cases that have one."""

    center: str
    row: str
    cases: int
    empty: int
    q1: float
    median: float
    q3: float
    mean: float
    largest: float


def read_distances(result: CellResult) -> Distances:
    """The distances in cases.csv; cases without a lesion in the label do not count."""
    rows = [row for row in result.rows.values() if is_measured(row)]
    return Distances(len(rows), np.array([r["centroid_mm"] for r in rows if "centroid_mm" in r]))


def pool(parts: Sequence[Distances | None]) -> Distances | None:
    """All cases of all centers; None where a center is missing: the rest is no fair picture."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    return Distances(sum(p.cases for p in there), np.concatenate([p.values for p in there]))


def summarize(center: str, row: str, found: Distances) -> Summary:
    """Median and quartiles (interpolated), mean and largest; NaN where no case has a distance."""
    values = found.values if len(found.values) else np.array([np.nan])
    q1, median, q3 = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    mean, largest = float(values.mean()), float(values.max())
    return Summary(center, row, found.cases, found.empty, q1, median, q3, mean, largest)


def row_cells(request: Request, stage: str) -> dict[str, list[Cell]]:
    """Row of the figure -> its cell on each target: Table V's rows, then the other methods."""
    rows = {
        variant: [
            request.cell(stage, target, method=VARIANTS[variant]) for target in request.targets
        ]
        for variant in VARIANTS
    }
    for method in METHODS:
        if method != "ours":
            rows[method] = [request.cell(stage, t, method=method) for t in request.targets]
    return rows


def draw_figure(panels: Mapping[str, Mapping[str, Distances | None]], stage: str) -> Figure:
    """`panels`: center, or "all centers" -> row -> distances (None: not evaluated)."""
    names = list(next(iter(panels.values())))
    lines = -(-len(panels) // COLUMNS)
    parts = [part for found in panels.values() for part in found.values() if part is not None]
    largest = max((float(part.values.max(initial=0.0)) for part in parts), default=0.0) or 1.0
    figure, axes = plt.subplots(
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
    figure.supxlabel(text, fontsize=SMALL_PT)
    return figure


def draw_panel(axis: Axes, found: Mapping[str, Distances | None]) -> None:
    """A box (quartiles, whiskers to 1.5 of their distance) and every case, for each row."""
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
    """Draw the figure; prints the medians and the commands of what is missing.

    Raises FileNotFoundError, with the commands, where no row is evaluated on any center.
    """
    cells = row_cells(request, stage)
    found = {
        name: {cell.target: find_result(request.plan, cell) for cell in of_row}
        for name, of_row in cells.items()
    }
    # A method that nobody has begun is no gap in this figure; a row of Table V is.
    rows = [name for name in cells if name in VARIANTS or any(found[name].values())]
    needed = [cell for name in rows for cell in cells[name]]
    if not any(result for name in rows for result in found[name].values()):
        report_missing(request.plan, needed, fatal=f"no {stage} is evaluated")
    panels = {
        target: {
            name: None if (result := found[name][target]) is None else read_distances(result)
            for name in rows
        }
        for target in request.targets
    }
    if len(request.targets) > 1:
        pooled = {name: pool([panels[t][name] for t in request.targets]) for name in rows}
        panels[POOLED] = pooled
    summaries = [
        summarize(center, name, part)
        for center, parts in panels.items()
        for name, part in parts.items()
        if part is not None
    ]
    for s in summaries:
        print(f"{s.center}, {s.row}: median {s.median:.1f} mm, {s.empty} of {s.cases} empty")
    with print_style():
        paths = save_figure(draw_figure(panels, stage), request.out, "figure7")
    write_numbers(request.out / "figure7.csv", [asdict(summary) for summary in summaries])
    report_missing(request.plan, needed)
    return paths


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(str(__doc__))
    parser.add_argument("--stage", choices=("tumor_coarse", "tumor_fine"), default="tumor_fine")
    args = parser.parse_args(argv)
    run_script(lambda given: run(request_of(given), given.stage), args)


if __name__ == "__main__":
    main()
