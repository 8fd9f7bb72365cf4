"""Table VI in docs/comparison.md: every row beside the paper's, their order, what each costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from methods import METHODS
from reproduce.analysis.compare import (
    MEAN,
    Line,
    Measured,
    make_line,
    measure,
    paper_number,
    read_paper,
)
from reproduce.analysis.cost import COLUMNS as COST_COLUMNS
from reproduce.analysis.cost import cost_lines, show_cost
from reproduce.analysis.layout import gain_cells, mean_interval
from reproduce.analysis.page import NOT_MEASURED, Experiment, Page, head, not_run, number
from reproduce.analysis.paper_tables import TABLE6
from reproduce.analysis.rank_order import MIN_ROWS, RankOrder, rank_rows
from reproduce.analysis.rows import THRESHOLDS, ResultKey
from reproduce.analysis.run_table import keys_of_own_seeds
from reproduce.analysis.shift import BASELINE
from reproduce.analysis.stats import mean_over_centers
from reproduce.analysis.tables import NOT_COMPARABLE, Keys, TableRow, budget_notes, short_trained

BASELINE_METHOD = "bl"
BASELINE_ROW = next(row.name for row in TABLE6.rows if row.method == BASELINE_METHOD)
COSTS = ("params_1e7", "gflops", "passes")
PRINTED_DIGIT = 0.005  # half of the last one, of both costs
RANK_TITLE = "rank: paper's / here"


@dataclass(frozen=True)
class Comparison:
    """The rows of Table VI that an experiment has, each with the seeds that it shares with BL."""

    found: Experiment

    @cached_property
    def keys(self) -> Keys:
        """The results of each place; of a row without any, those of all seeds."""
        return keys_of_own_seeds(TABLE6, self.found.rows, self.found.targets, BASELINE_ROW)

    @cached_property
    def lines(self) -> dict[tuple[str, str], Line]:
        """`line` by threshold and row, in the paper's order."""
        return {(t, row.name): self.line(row, t) for t in THRESHOLDS for row in TABLE6.rows}

    @cached_property
    def dice(self) -> dict[str, Line]:
        """The rows that have results for every center, in the paper's order, threshold target."""
        lines = {
            row: line for (threshold, row), line in self.lines.items() if threshold == "target"
        }
        return {name: line for name, line in lines.items() if line.ours is not None}

    @cached_property
    def short(self) -> dict[str, str]:
        """The rows that had less than their authors' training, and how much less."""
        short = short_trained(TABLE6, self.found.rows)
        return {name: why for name, why in short.items() if name in self.dice}

    def line(self, row: TableRow, threshold: str) -> Line:
        """A row's mean Dice over the centers, compared with BL's trainings of the same seeds."""
        before = None
        if row.method != BASELINE_METHOD:
            before = [
                self._measure([_baseline(key, threshold) for key in of_seeds])
                for of_seeds in self._of_centers(row, threshold)
            ]
        printed = paper_number(read_paper(TABLE6.paper), row.name, MEAN, "dsc")
        # a place without a name: the mixed model of a mean, which takes seconds, is not shown
        place = (threshold, row.name, "", "dsc")
        return make_line(place, self.parts(row, threshold), before, printed)

    def parts(self, row: TableRow, threshold: str = "target") -> list[Measured | None]:
        """A row's cases on each center; None where one of its seeds is missing."""
        return [self._measure(of_seeds) for of_seeds in self._of_centers(row, threshold)]

    def _of_centers(self, row: TableRow, threshold: str) -> list[Sequence[ResultKey]]:
        return [self.keys.get((threshold, row.name, c), ()) for c in self.found.targets]

    def _measure(self, keys: Sequence[ResultKey]) -> Measured | None:
        cases = [self.found.rows.select(key) for key in keys]
        there = [part for part in cases if part is not None]
        return measure(there) if there and len(there) == len(cases) else None

    @cached_property
    def shared_seeds(self) -> tuple[int, ...]:
        """The seeds that all rows have which are in the order: a row trained short is not."""
        of_rows = [
            {key.seed for key in of_seeds}
            for (threshold, row, _), of_seeds in self.keys.items()
            if threshold == "target" and row in self.dice and row not in self.short
        ]
        return tuple(sorted(set.intersection(*of_rows))) if of_rows else ()

    @cached_property
    def order(self) -> RankOrder | None:
        """The order of the paper's rows here, by the seeds that all have; None for too few.

        Without the rows that are not comparable, and those that were evaluated on other cases.
        """
        samples: dict[str, list[np.ndarray]] = {}
        cases: list[tuple[str, ...]] | None = None
        for row in TABLE6.rows:
            if row.name not in self.dice or row.name in self.short or not self.shared_seeds:
                continue
            shared = [
                self._measure([key for key in of_seeds if key.seed in self.shared_seeds])
                for of_seeds in self._of_centers(row, "target")
            ]
            there = [part for part in shared if part is not None]
            names = [part.case_ids for part in there]
            cases = names if cases is None else cases
            if names == cases:
                samples[row.name] = [part.values["dsc"] for part in there]
        paper = read_paper(TABLE6.paper)
        return rank_rows({row: of_row[f"{MEAN}_dsc"] for row, of_row in paper.items()}, samples)


def show_comparison(page: Page, name: str) -> str:
    """Table VI in short: a line for each row that has results, the paper's number beside."""
    found = page.experiment(name)
    if found is None or not found.targets:
        return f"Table VI: {NOT_MEASURED}."
    table = Comparison(found)
    ranks = {} if table.order is None else table.order.ranks
    header = ["row", "paper's DSC", "DSC [95 %]", *([RANK_TITLE] if ranks else [])]
    header += [f"minus {BASELINE} [95 %, cases]", "[95 %, trainings and cases]", "p, Wilcoxon"]
    header += ["source-val: DSC", f"source-val: minus {BASELINE}", "ASD (mm)", "HD (mm)", "seeds"]
    lines = head(header)
    for row in TABLE6.rows:
        if row.name not in table.dice:
            continue
        dice, other = table.dice[row.name], table.lines["source-val", row.name]
        is_base = row.method == BASELINE_METHOD
        cells = [
            _named(row.name, table.short),
            "-" if dice.paper is None else f"{dice.paper:.2f}",
            number(dice) + mean_interval(dice),
            *([_ranks_text(ranks.get(row.name))] if ranks else []),
            *([""] * 3 if is_base else gain_cells(dice)[:3]),
            number(other),
            "" if is_base else gain_cells(other)[0],
            *(_surface(table, row, metric) for metric in ("asd_mm", "hd95_mm")),
            str(dice.seeds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    missing = [row.name for row in TABLE6.rows if row.name not in table.dice]
    said = [*budget_notes(table.short), order_sentence(table.order, table.shared_seeds)]
    return "\n".join([rows_that_differ(table), "", *lines, *not_run(missing), "", " ".join(said)])


def show_costs(page: Page, name: str) -> str:
    """Table VI's costs: a line for each known row, and why one is not the paper's."""
    found = page.experiment(name)
    if found is None or not found.targets:
        return f"What each method costs: {NOT_MEASURED}."
    by_row = {
        row.name: tuple(
            of_seeds[0]
            for (threshold, name, _), of_seeds in Comparison(found).keys.items()
            if (threshold, name) == ("target", row.name)
        )
        for row in TABLE6.rows
    }
    costs = {
        (line.row, line.metric): line
        for line in cost_lines(found.rows, by_row, read_paper(TABLE6.paper))
    }
    lines = head(["row", *(COST_COLUMNS[column] for column in COSTS)])
    for row in by_row:
        cells = [_named(row), *(show_cost(costs, row, column) for column in COSTS)]
        lines.append(f"| {' | '.join(cells)} |")
    # Another system's networks are those that its run planned, for the data at hand.
    own = [row for row in TABLE6.rows if row.method in METHODS]
    why = [f"- {row.name}: {row.note}." for row in own if _differs(costs, row.name)]
    return "\n".join([*lines, "", *why] if why else lines)


def _differs(costs: Mapping[tuple[str, str], Line], row: str) -> bool:
    """Whether a cost of this row is not the paper's, as printed."""
    found = (costs.get((row, metric)) for metric in COSTS)
    return any(line is not None and abs(line.difference or 0) >= PRINTED_DIGIT for line in found)


def rows_that_differ(table: Comparison) -> str:
    """Which rows differ from BL by their intervals over cases: a line for each threshold."""
    lines = ["By the interval over cases, which leaves out how trainings scatter:", ""]
    for threshold in THRESHOLDS:
        above, below = [], []
        for row in TABLE6.rows:
            line = table.lines[threshold, row.name]
            if row.name in table.short or line.gain_low is None or line.gain_high is None:
                continue
            if line.gain_low > 0:
                above.append(row.name)
            elif line.gain_high < 0:
                below.append(row.name)
        places = f"above {BASELINE}: {_listed(above)}; below {BASELINE}: {_listed(below)}"
        lines.append(f"- threshold {threshold}: {places}")
    return "\n".join(lines)


def _listed(rows: Sequence[str]) -> str:
    return ", ".join(rows) if rows else "no row"


def order_sentence(order: RankOrder | None, seeds: Sequence[int]) -> str:
    """Spearman's correlation in words, with the number of rows, or why there is none."""
    if order is None:
        return (
            f"The rows' order beside the paper's: not shown below {MIN_ROWS} comparable rows of "
            "the same cases and seeds."
        )
    of = f"{len(order.ranks)} rows by mean DSC (seed {', '.join(map(str, seeds))})"
    if order.correlation is None:
        return f"Ranks of {of}: all equal, so there is no correlation with the paper's."
    interval = order.interval
    over = "cases" if len(seeds) == 1 else "trainings and cases"
    bounds = (
        "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}] (95 %, {over})"
    )
    return (
        f"Ranks are among the rows that the paper and this page have: n = {of}. Spearman's "
        f"correlation of the two orders is {order.correlation:.2f}{bounds}."
    )


def _named(row: str, short: Collection[str] = ()) -> str:
    """A row's name as the page prints it."""
    name = f"{BASELINE} (printed as {row})" if row == BASELINE_ROW else row
    return f"{name} ({NOT_COMPARABLE})" if row in short else name


def _ranks_text(ranks: tuple[float, float] | None) -> str:
    return "-" if ranks is None else " / ".join(f"{rank:g}" for rank in ranks)


def _surface(table: Comparison, row: TableRow, metric: str) -> str:
    """The mean of a distance over the centers."""
    samples = [part.values[metric] for part in table.parts(row) if part is not None]
    return f"{mean_over_centers(samples):.2f}"


def _baseline(key: ResultKey, threshold: str) -> ResultKey:
    return replace(key, method=BASELINE_METHOD, threshold=threshold)
