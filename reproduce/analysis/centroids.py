"""The numbers of Fig. 7: distances between the centroids of result and label, from `Rows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.case_metrics import Row
from methods import METHODS
from reproduce.analysis.paper_tables import ROW_NAMES, TABLE5_METHODS
from reproduce.analysis.rows import ResultKey, Rows, is_measured

POOLED = "all centers"
Panels = Mapping[str, Mapping[str, "Distances | None"]]  # center or "all centers" -> row


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


def figure_rows(rows: Rows | None = None) -> dict[str, str]:
    """Row of the figure -> its method: Table V's rows, then every other method, by its row's name.

    Others: those of `METHODS`, then what else `rows` has results of.
    """
    there = () if rows is None else sorted({key.method for key in rows.evaluations})
    known = dict.fromkeys((*METHODS, *there))
    others = [method for method in known if method not in TABLE5_METHODS.values()]
    return {**TABLE5_METHODS, **{ROW_NAMES.get(method, method): method for method in others}}


def rows_not_run(panels: Panels, rows: Mapping[str, object]) -> list[str]:
    """The names of `rows`, of the figure, that no panel shows: nothing of them is evaluated."""
    return [name for name in rows if name not in next(iter(panels.values()))]


def distance_panels(
    rows: Rows, keys: Mapping[str, Mapping[str, ResultKey]]
) -> dict[str, dict[str, Distances | None]]:
    """Center -> row -> distances (None: not evaluated); `keys`: row -> center -> result.

    A method without any result is left out (see `rows_not_run`); a row of Table V is shown as not
    evaluated. With more than one center the last panel is that of all.
    """
    found = {
        name: {target: _select(rows, key) for target, key in of_row.items()}
        for name, of_row in keys.items()
    }
    names = [name for name in keys if name in TABLE5_METHODS or any(found[name].values())]
    targets = list(next(iter(keys.values())))
    panels = {target: {name: found[name][target] for name in names} for target in targets}
    if len(targets) > 1:
        panels[POOLED] = {name: pool([panels[t][name] for t in targets]) for name in names}
    return panels


def read_distances(rows: Sequence[Row]) -> Distances:
    """The distances of an evaluation; cases without a lesion in the label do not count."""
    measured = [row for row in rows if is_measured(row)]
    values = [row["centroid_mm"] for row in measured if "centroid_mm" in row]
    return Distances(len(measured), np.array(values))


def pool(parts: Sequence[Distances | None]) -> Distances | None:
    """All cases of all centers; None where a center is missing: the rest is no fair picture."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return None
    return Distances(sum(p.cases for p in there), np.concatenate([p.values for p in there]))


def summarize_panels(panels: Panels) -> list[Summary]:
    """A line for each row of each panel that has results."""
    return [
        summarize(center, name, part)
        for center, parts in panels.items()
        for name, part in parts.items()
        if part is not None
    ]


def summarize(center: str, row: str, found: Distances) -> Summary:
    """Median and quartiles (interpolated), mean and largest; NaN where no case has a distance."""
    values = found.values if len(found.values) else np.array([np.nan])
    q1, median, q3 = (float(q) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    mean, largest = float(values.mean()), float(values.max())
    return Summary(center, row, found.cases, found.empty, q1, median, q3, mean, largest)


def _select(rows: Rows, key: ResultKey) -> Distances | None:
    cases = rows.select(key)
    return None if cases is None else read_distances(cases)
