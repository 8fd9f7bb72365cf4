"""From the cases of each cell to the numbers of a table: ours, the paper's, the difference."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from reproduce.analysis.stats import bootstrap_mean, compare_pairs, mean_over_centers
from utils.commands import ROOT

PAPER = ROOT / "paper"
METRICS = {"dsc": "DSC (%)", "asd_mm": "ASD (mm)", "hd95_mm": "HD (mm)"}
PAPER_NAMES = {"dsc": "dsc", "asd_mm": "asd", "hd95_mm": "hd"}
ALL_METRICS = (*METRICS, "hd95_max_mm")  # the last one stands in the CSV only
MEAN = "mean"  # the mean over centers, where a center's name would stand
NAMED_CASES = 10  # a message names at most so many


@dataclass(frozen=True)
class Measured:
    """One row of a table on one center: each case's mean over the seeds."""

    case_ids: tuple[str, ...]  # the cases with a label, sorted
    values: Mapping[str, np.ndarray]  # metric -> (cases,); DSC in percent, distances in mm
    seeds: int
    empty: int  # results (a case with a seed) whose prediction is empty
    empty_labels: tuple[str, ...]  # cases whose label is empty
    unlabeled: int  # cases without a label, which no mean counts
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One number of a table, as a line of its CSV; None is unknown.

    `center`: its name, or "mean" over the centers of the table. `low`, `high`: 95 % bootstrap
    interval of `ours`. `gain`: ours minus the baseline row on the same cases, with its interval;
    `p`: Wilcoxon over these pairs, for the mean over those of all centers; `ties`: pairs without
    a difference. `results`: cases times seeds, of which `empty` have an empty prediction.
    """

    protocol: str
    row: str
    center: str
    metric: str
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    paper: float | None = None
    difference: float | None = None
    cases: int | None = None
    seeds: int | None = None
    results: int | None = None
    empty: int | None = None
    threshold: str | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p: float | None = None
    pairs: int | None = None
    ties: int | None = None
    note: str | None = None


LINE_COLUMNS = tuple(item.name for item in fields(Line))
Paper = Mapping[str, Mapping[str, float]]  # row -> column of paper/*.csv -> number


def measure(rows_of_seeds: Sequence[Sequence[Mapping[str, Any]]]) -> Measured | None:
    """The rows of cases.csv of each seed -> each case's mean over the seeds.

    None where no case has a label. Raises ValueError, naming them, where the seeds' cases differ
    or a case lacks a metric.
    """
    labeled = [{r["case_id"]: r for r in rows if "dsc" in r} for rows in rows_of_seeds]
    ids = sorted(labeled[0])
    for number, of_seed in enumerate(labeled[1:], 2):
        different = _name_different(ids, of_seed, "the first seed", f"seed number {number}")
        if different:
            raise ValueError(f"cases differ: {different}")
    if not ids:
        return None
    found = [of_seed[name] for of_seed in labeled for name in ids]
    for row in found:
        missing = [metric for metric in ALL_METRICS if metric not in row]
        if missing:
            raise ValueError(f"case {row['case_id']} has no {', '.join(missing)}")
    shape = (len(labeled), len(ids))
    empty = [row.get("empty", "").split() for row in found]
    return Measured(
        case_ids=tuple(ids),
        values={
            metric: np.reshape([row[metric] for row in found], shape).mean(axis=0)
            for metric in ALL_METRICS
        },
        seeds=len(labeled),
        empty=sum("pred" in parts for parts in empty),
        empty_labels=tuple(
            name for name, parts in zip(ids, empty[: len(ids)], strict=True) if "label" in parts
        ),
        unlabeled=len(rows_of_seeds[0]) - len(ids),
        thresholds=tuple(sorted({row["threshold"] for row in found if "threshold" in row})),
    )


def make_line(
    place: tuple[str, str, str, str],
    parts: Sequence[Measured | None],
    baseline: Sequence[Measured | None] | None,
    paper: float | None,
) -> Line:
    """The number at `place` (protocol, row, center, metric) over `parts`, one for each center.

    Nothing but the paper's number where a part is missing. `baseline`: the same centers' parts of
    the row to compare with; None: no comparison.
    """
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return Line(*place, paper=paper)
    samples = [part.values[place[3]] for part in there]
    ours, interval = mean_over_centers(samples), bootstrap_mean(samples)
    thresholds = sorted({value for part in there for value in part.thresholds})
    return Line(
        *place,
        ours=ours,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        paper=paper,
        difference=None if paper is None else ours - paper,
        cases=sum(len(part.case_ids) for part in there),
        seeds=there[0].seeds,
        results=sum(len(part.case_ids) * part.seeds for part in there),
        empty=sum(part.empty for part in there),
        threshold="/".join(f"{value:g}" for value in thresholds),
        **({} if baseline is None else compare_with(baseline, there, place[3])),
    )


def compare_with(
    baseline: Sequence[Measured | None], parts: Sequence[Measured], metric: str
) -> dict[str, Any]:
    """The fields of `Line` that compare with the baseline, case by case.

    Where it is missing, or was measured on other cases, there is only a note.
    """
    differences = []
    for before, part in zip(baseline, parts, strict=True):
        if before is None:
            return {"note": "the baseline is missing"}
        other = _name_different(before.case_ids, part.case_ids, "the baseline", "this row")
        if other:
            return {"note": f"cases differ, not compared: {other}"}
        differences.append(part.values[metric] - before.values[metric])
    test, interval = compare_pairs(np.concatenate(differences)), bootstrap_mean(differences)
    return {
        "gain": mean_over_centers(differences),
        "gain_low": None if interval is None else interval.low,
        "gain_high": None if interval is None else interval.high,
        "p": test.p,
        "pairs": test.pairs,
        "ties": test.ties,
        "note": f"not tested: {test.note}" if test.note else None,
    }


def read_paper(table: str) -> dict[str, dict[str, float]]:
    """The paper's numbers in `paper/<table>.csv`: row -> column -> number."""
    with (PAPER / f"{table}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    names = rows[0][1:]
    return {
        row[0]: {name: float(text) for name, text in zip(names, row[1:], strict=True)}
        for row in rows[1:]
    }


def paper_number(paper: Paper, row: str, center: str, metric: str) -> float | None:
    """The paper's number for a center of its name in any case, or for "mean"; None: it has none."""
    if metric not in PAPER_NAMES:
        return None
    return paper.get(row, {}).get(f"{center.lower()}_{PAPER_NAMES[metric]}")


def paper_centers(paper: Paper) -> set[str]:
    """The names of the paper's centers, in lower case."""
    columns = {column for numbers in paper.values() for column in numbers}
    return {name.rpartition("_")[0] for name in columns if name.endswith("_dsc")} - {MEAN}


def wrong_means(paper: Paper) -> list[str]:
    """Where the paper prints another mean than its centers give (more than rounding)."""
    centers, found = sorted(paper_centers(paper)), []
    for row, numbers in paper.items():
        for metric, name in PAPER_NAMES.items():
            mean = float(np.mean([numbers[f"{center}_{name}"] for center in centers]))
            printed = numbers[f"{MEAN}_{name}"]
            if abs(mean - printed) > 0.011:
                found.append(
                    f"The paper prints {printed:.2f} as the mean {METRICS[metric]} of {row}; "
                    f"its centers give {mean:.2f}."
                )
    return found


def _name_different(ours: Any, theirs: Any, one: str, two: str) -> str:
    """Which names only one of two collections has; "" where they are the same."""
    parts = []
    for label, names in ((one, set(ours) - set(theirs)), (two, set(theirs) - set(ours))):
        shown = ", ".join(sorted(names)[:NAMED_CASES])
        more = f" and {len(names) - NAMED_CASES} more" if len(names) > NAMED_CASES else ""
        if names:
            parts.append(f"only {label} has {shown}{more}")
    return "; ".join(parts)
