"""From the cases of each evaluation to the numbers of a table, beside the paper's."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from engine.case_metrics import Row
from reproduce.analysis.mixed_model import mixed_estimate
from reproduce.analysis.stats import (
    Interval,
    bootstrap_mean,
    bootstrap_trainings,
    compare_pairs,
    mean_over_centers,
)
from utils.commands import ROOT

PAPER = ROOT / "paper"
METRICS = {"dsc": "DSC (%)", "asd_mm": "ASD (mm)", "hd95_mm": "HD (mm)"}
PAPER_NAMES = {"dsc": "dsc", "asd_mm": "asd", "hd95_mm": "hd"}
ALL_METRICS = (*METRICS, "hd95_max_mm")  # the last one is in the CSV only
MEAN = "mean"  # the mean over centers, in place of a center's name
MISSED_DSC = 1  # percent; below it a lesion counts as missed
NAMED_CASES = 10  # a message names at most so many


@dataclass(frozen=True)
class Measured:
    """One row of a table on one center."""

    case_ids: tuple[str, ...]  # the cases with a label, sorted
    values: Mapping[str, np.ndarray]  # metric -> (seeds, cases); DSC in percent, distances in mm
    empty: int  # results (a case with a seed) whose prediction is empty
    empty_labels: tuple[str, ...]  # cases whose label is empty
    unlabeled: int  # cases without a label, which no mean counts
    thresholds: tuple[float, ...]

    @property
    def seeds(self) -> int:
        """Trainings that each case was predicted by."""
        return len(self.values["dsc"])

    @property
    def missed(self) -> int:
        """Results (a case with a seed) with a Dice of practically nothing."""
        return int(np.count_nonzero(self.values["dsc"] < MISSED_DSC))


@dataclass(frozen=True)
class Line:
    """One number of a table, as a line of its CSV; None is unknown.

    `threshold`: how it was chosen, `threshold_value`: what it was. `center`: its name, or "mean"
    over the centers of the table. `low`, `high`: 95 % bootstrap interval of `ours` over cases;
    `..._trainings`: over trainings and cases, where there is more than one seed. `gain`: ours minus
    the baseline row on the same cases, with its intervals; `p`: Wilcoxon over these pairs (each
    case's mean over the seeds), for the mean over those of all centers; `ties`: pairs without a
    difference. `mixed`: the mixed model's estimate of the gain, of DSC's mean alone. `results`:
    cases times seeds, of which `empty` have an empty prediction and `missed` a DSC below 1.
    """

    threshold: str
    row: str
    center: str
    metric: str
    ours: float | None = None
    low: float | None = None
    high: float | None = None
    low_trainings: float | None = None
    high_trainings: float | None = None
    paper: float | None = None
    difference: float | None = None
    cases: int | None = None
    seeds: int | None = None
    results: int | None = None
    empty: int | None = None
    missed: int | None = None
    threshold_value: str | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    gain_low_trainings: float | None = None
    gain_high_trainings: float | None = None
    p: float | None = None
    pairs: int | None = None
    ties: int | None = None
    mixed: float | None = None
    mixed_low: float | None = None
    mixed_high: float | None = None
    mixed_p: float | None = None
    note: str | None = None


LINE_COLUMNS = tuple(item.name for item in fields(Line))
Paper = Mapping[str, Mapping[str, float]]  # row -> column of paper/*.csv -> number


def measure(rows_of_seeds: Sequence[Sequence[Row]]) -> Measured | None:
    """The cases of each seed -> their metrics; None where no case has a label.

    Raises ValueError, naming them, where the seeds' cases differ or a case lacks a metric.
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
        values={m: np.reshape([float(row[m]) for row in found], shape) for m in ALL_METRICS},
        empty=sum("pred" in parts for parts in empty),
        empty_labels=tuple(
            name for name, parts in zip(ids, empty[: len(ids)], strict=True) if "label" in parts
        ),
        unlabeled=len(rows_of_seeds[0]) - len(ids),
        thresholds=tuple(sorted({r["threshold_value"] for r in found if "threshold_value" in r})),
    )


def make_line(
    place: tuple[str, str, str, str],
    parts: Sequence[Measured | None],
    baseline: Sequence[Measured | None] | None,
    paper: float | None,
) -> Line:
    """The number at `place` (threshold, row, center, metric) over `parts`, one for each center.

    Nothing but the paper's number where a part is missing. `baseline`: the same centers' parts of
    the row to compare with; None: no comparison.
    """
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        return Line(*place, paper=paper)
    samples = [part.values[place[3]] for part in there]
    ours = mean_over_centers(samples)
    low, high = _bounds(bootstrap_mean(_over_seeds(samples)))
    low_trainings, high_trainings = _bounds(bootstrap_trainings(samples))
    thresholds = sorted({value for part in there for value in part.thresholds})
    return Line(
        *place,
        ours=ours,
        low=low,
        high=high,
        low_trainings=low_trainings,
        high_trainings=high_trainings,
        paper=paper,
        difference=None if paper is None else ours - paper,
        cases=sum(len(part.case_ids) for part in there),
        seeds=there[0].seeds,
        results=sum(len(part.case_ids) * part.seeds for part in there),
        empty=sum(part.empty for part in there),
        missed=sum(part.missed for part in there),
        threshold_value="/".join(f"{value:g}" for value in thresholds),
        **({} if baseline is None else compare_with(baseline, there, (place[2], place[3]))),
    )


def compare_with(
    baseline: Sequence[Measured | None], parts: Sequence[Measured], place: tuple[str, str]
) -> dict[str, Any]:
    """The fields of `Line` that compare with the baseline, case by case; `place`: center, metric.

    Where the baseline is missing, or was measured on other cases, there is only a note.
    """
    center, metric = place
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for before, part in zip(baseline, parts, strict=True):
        if before is None:
            return {"note": "the baseline is missing"}
        other = _name_different(before.case_ids, part.case_ids, "the baseline", "this row")
        if other:
            return {"note": f"cases differ, not compared: {other}"}
        pairs.append((part.values[metric], before.values[metric]))
    differences = [one - other for one, other in pairs]
    of_cases = _over_seeds(differences)
    test = compare_pairs(np.concatenate(of_cases))
    low, high = _bounds(bootstrap_mean(of_cases))
    low_trainings, high_trainings = _bounds(bootstrap_trainings(differences))
    found = {
        "gain": mean_over_centers(differences),
        "gain_low": low,
        "gain_high": high,
        "gain_low_trainings": low_trainings,
        "gain_high_trainings": high_trainings,
        "p": test.p,
        "pairs": test.pairs,
        "ties": test.ties,
    }
    notes = [f"not tested: {test.note}"] if test.note else []
    if (center, metric) == (MEAN, "dsc"):
        mixed = mixed_estimate(*zip(*pairs, strict=True))
        found |= {"mixed": mixed.estimate, "mixed_p": mixed.p}
        found |= {"mixed_low": mixed.low, "mixed_high": mixed.high}
        notes += [mixed.note] if mixed.note else []
    return found | {"note": "; ".join(notes) or None}


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


def _over_seeds(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(seeds, cases) of each center -> each case's mean over the seeds (cases,)."""
    return [sample.mean(axis=0) for sample in samples]


def _bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _name_different(ours: Any, theirs: Any, one: str, two: str) -> str:
    """Which names only one of two collections has; "" where they are the same."""
    parts = []
    for label, names in ((one, set(ours) - set(theirs)), (two, set(theirs) - set(ours))):
        shown = ", ".join(sorted(names)[:NAMED_CASES])
        more = f" and {len(names) - NAMED_CASES} more" if len(names) > NAMED_CASES else ""
        if names:
            parts.append(f"only {label} has {shown}{more}")
    return "; ".join(parts)
