"""How the numbers of a table are laid out: a sheet per threshold, a group of lines per metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reproduce.analysis.compare import MEAN, METRICS, MISSED_DSC, Line
from reproduce.analysis.render import Group, Sheet

LEGEND = (
    "A number is ours, then in parentheses the paper's and the difference ours - paper. Means are "
    "over cases (each case's mean over the seeds), then over centers. An empty prediction counts "
    "as DSC 0, ASD 40 mm, HD 100 mm."
)
TRAININGS_LEGEND = (
    "Intervals are 95 % bootstrap intervals. Over cases: each center's cases are drawn. Over "
    "trainings and cases: each center's seeds are drawn too, so that the interval holds the "
    "scatter of trainings; the interval of a mean is this one. Those of single centers are in the "
    "CSV."
)
ONE_TRAINING_LEGEND = (
    "One training per row: the interval holds the scatter of cases only (95 % bootstrap over the "
    "cases of each center; those of single centers are in the CSV). Two trainings of one row "
    "differ too, and no number here says by how much."
)
PAIRED_LEGEND = (
    "minus {0}: the difference to {0} on the same cases, mean over centers. p: Wilcoxon's "
    "signed-rank test against {0} over the cases (of all centers together in the last columns), "
    "two-sided, not corrected for the number of tests; it knows the scatter of cases only. Mixed "
    "model, of DSC: the row's effect with random intercepts for each case, each case in a row and "
    "each training, by REML; Student's t interval and p."
)
INTERVAL = "[95 % interval]"
PAIRED_COLUMNS = (
    *("[95 %, trainings and cases]", "p, Wilcoxon", "mixed model [95 %]", "p, mixed model"),
)
Index = Mapping[tuple[str, str, str], Line]


@dataclass(frozen=True)
class Frame:
    """What a sheet's lines and columns are."""

    rows: tuple[str, ...]
    centers: tuple[str, ...]
    baseline: str | None = None


def make_sheet(title: str, lines: Sequence[Line], frame: Frame) -> Sheet:
    """The sheet of one threshold's lines: a line per row and metric, a column per center."""
    index = {(line.row, line.center, line.metric): line for line in lines}
    header = ["", *frame.centers, f"{MEAN} {INTERVAL}"]
    if frame.baseline is not None:
        header += [f"minus {frame.baseline} [95 %, cases]", *PAIRED_COLUMNS]
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
        text += mean_interval(line)
    if line.paper is None:
        return text
    more = "" if line.difference is None else f", {_signed(line.difference)}"
    return f"{text} ({line.paper:.2f}{more})"


def mean_interval(line: Line) -> str:
    """A mean's interval over trainings and cases, or over cases where there is one training."""
    if line.low_trainings is None:
        return _interval(line.low, line.high)
    return _interval(line.low_trainings, line.high_trainings)


def gain_cells(line: Line) -> tuple[str, ...]:
    """What a row has more than the baseline, in the five cells of the paired columns."""
    if line.gain is None:
        return ("-", "-", "-", "", "")
    of_cases = _signed(line.gain) + _interval(line.gain_low, line.gain_high)
    of_trainings = _interval(line.gain_low_trainings, line.gain_high_trainings).strip()
    if not of_trainings:
        of_trainings = "one training" if line.seeds == 1 else "-"
    if line.metric != "dsc":
        return (of_cases, of_trainings, show_p(line.p), "", "")
    mixed = "-" if line.mixed is None else _signed(line.mixed)
    mixed += _interval(line.mixed_low, line.mixed_high)
    return (of_cases, of_trainings, show_p(line.p), mixed, show_p(line.mixed_p))


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
        return (*cells, *[""] * (1 + len(PAIRED_COLUMNS)))
    return (*cells, *gain_cells(index[row, MEAN, metric]))


def _p_group(index: Index, rows: Sequence[str], frame: Frame) -> Group:
    """The p values of DSC by center; those of the other metrics are in the CSV."""
    blank = [""] * (2 + len(PAIRED_COLUMNS))
    lines = [
        (row, *(show_p(index[row, center, "dsc"].p) for center in frame.centers), *blank)
        for row in rows
        if row != frame.baseline
    ]
    return Group(f"p (Wilcoxon) against {frame.baseline}, DSC", tuple(lines))


def _state_groups(index: Index, rows: Sequence[str], frame: Frame) -> list[Group]:
    """How many predictions were empty, how many lesions were missed, and the thresholds."""
    blank = [""] * (0 if frame.baseline is None else 1 + len(PAIRED_COLUMNS))
    empty, missed, thresholds = [], [], []
    for row in rows:
        lines = [index[row, center, "dsc"] for center in (*frame.centers, MEAN)]
        empty.append((row, *(_part(line.empty, line.results) for line in lines), *blank))
        missed.append((row, *(_part(line.missed, line.results) for line in lines), *blank))
        shown = [line.threshold_value or "-" for line in lines[:-1]]
        thresholds.append((row, *shown, "", *blank))
    return [
        Group("empty predictions / results", tuple(empty)),
        Group(f"missed (DSC below {MISSED_DSC}) / results", tuple(missed)),
        Group("threshold", tuple(thresholds)),
    ]


def _part(count: int | None, results: int | None) -> str:
    return "-" if results is None else f"{count} / {results}"


def _has(index: Index, row: str, center: str) -> bool:
    return index[row, center, "dsc"].ours is not None


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # adding zero turns -0.00 into +0.00


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
