"""How the numbers of a table are laid out: a sheet per protocol, a group of lines per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis.compare import MEAN, METRICS, Line
from reproduce.analysis.render import Group, Sheet

LEGEND = (
    "A number is ours, then in parentheses the paper's and the difference ours - paper. Means are "
    "over cases, then over centers; intervals are 95 % bootstrap intervals over the cases of each "
    "center (those of single centers stand in the CSV). An empty prediction counts as DSC 0, ASD "
    "40 mm, HD 100 mm."
)
PAIRED_LEGEND = (
    "minus {0}: the difference to {0} on the same cases, mean over centers. p: Wilcoxon's "
    "signed-rank test against {0} over the cases (of all centers together in the last column), "
    "two-sided, not corrected for the number of tests."
)
INTERVAL = "[95 % interval]"
Index = Mapping[tuple[str, str, str], Line]


@dataclass(frozen=True)
class Frame:
    """What a sheet's lines and columns are."""

    rows: tuple[str, ...]
    centers: tuple[str, ...]
    baseline: str | None = None


def make_sheet(title: str, lines: Sequence[Line], frame: Frame) -> Sheet:
    """The sheet of one protocol's lines: a line per row and metric, a column per center."""
    index = {(line.row, line.center, line.metric): line for line in lines}
    header = ["", *frame.centers, f"{MEAN} {INTERVAL}"]
    if frame.baseline is not None:
        header += [f"minus {frame.baseline} {INTERVAL}", "p, all cases"]
    groups = [
        Group(label, tuple(_metric_line(index, row, metric, frame) for row in frame.rows))
        for metric, label in METRICS.items()
    ]
    measured = [row for row in frame.rows if any(_has(index, row, c) for c in frame.centers)]
    if frame.baseline is not None:
        groups.append(_p_group(index, measured, frame))
    groups += _state_groups(index, measured, frame)
    return Sheet(title, tuple(header), tuple(group for group in groups if group.lines))


def show_number(line: Line) -> str:
    """Ours, with its interval where the line is a mean, and the paper's with the difference."""
    text = "-" if line.ours is None else f"{line.ours:.2f}"
    if line.center == MEAN:
        text += _interval(line.low, line.high)
    if line.paper is None:
        return text
    more = "" if line.difference is None else f", {_signed(line.difference)}"
    return f"{text} ({line.paper:.2f}{more})"


def show_p(p: float | None) -> str:
    """Three decimals, and "< 0.001" below that."""
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _metric_line(index: Index, row: str, metric: str, frame: Frame) -> tuple[str, ...]:
    cells = [row, *(show_number(index[row, c, metric]) for c in (*frame.centers, MEAN))]
    if frame.baseline is None:
        return tuple(cells)
    if row == frame.baseline:
        return (*cells, "", "")
    mean = index[row, MEAN, metric]
    gain = "-" if mean.gain is None else _signed(mean.gain)
    return (*cells, gain + _interval(mean.gain_low, mean.gain_high), show_p(mean.p))


def _p_group(index: Index, rows: Sequence[str], frame: Frame) -> Group:
    """The p values of DSC by center; those of the other metrics stand in the CSV."""
    lines = [
        (row, *(show_p(index[row, center, "dsc"].p) for center in frame.centers), "", "", "")
        for row in rows
        if row != frame.baseline
    ]
    return Group(f"p against {frame.baseline}, DSC", tuple(lines))


def _state_groups(index: Index, rows: Sequence[str], frame: Frame) -> list[Group]:
    """How many predictions were empty, and the thresholds."""
    blank = [""] * (1 if frame.baseline is None else 3)
    empty, thresholds = [], []
    for row in rows:
        places = [index[row, center, "dsc"] for center in frame.centers]
        total = index[row, MEAN, "dsc"]
        counts = [_count(line) for line in (*places, total)]
        empty.append((row, *counts, *blank[1:]))
        thresholds.append((row, *(line.threshold or "-" for line in places), *blank))
    return [
        Group("empty predictions / results", tuple(empty)),
        Group("threshold", tuple(thresholds)),
    ]


def _count(line: Line) -> str:
    return "-" if line.results is None else f"{line.empty} / {line.results}"


def _has(index: Index, row: str, center: str) -> bool:
    return index[row, center, "dsc"].ours is not None


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # adding zero turns -0.00 into +0.00


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
