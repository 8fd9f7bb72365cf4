"""The table of detection: which rows were measured on which centers, its text and its CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reproduce.analysis.compare import MEAN
from reproduce.analysis.detection import METRICS, Patients, Value, measure_patients
from reproduce.analysis.lesion_free import NO_SCANS, LesionFree
from reproduce.analysis.render import Group, Sheet, to_csv, to_markdown
from reproduce.analysis.rows import Rows
from reproduce.analysis.tables import THRESHOLD_TEXTS, Keys, Place

TITLE = "Detection: tumor, fine stage"
LEGEND = (
    "Sensitivity of patients: those with a lesion in whom the result holds anything; specificity: "
    "lesion-free scans in which it holds nothing. A lesion is hit where a finding (a connected "
    "part of the result) overlaps it by an intersection over union of 10 % or more; sizes are the "
    "longest axis. AUROC, average precision and calibration error (ten bins) are of the score of a "
    "patient, the highest probability in the pancreas region of interest; the average precision of "
    "lesions is of the findings. In brackets 95 % bootstrap intervals over patients (lesions), "
    "each seed's results averaged first; of how many, behind them. Means are over centers."
)
NO_FREE = "no lesion-free scan, so no specificity, AUROC, average precision or calibration error"
DRAWN = (
    "Lesion-free scans beyond a center's own cases are drawn: other bodies on the same scanner, "
    "without a lesion, predicted by the same networks at the same threshold (lesion_free/)."
)
NOT_MEASURED = (
    "not measured, since they were evaluated before there were these columns: evaluate them again"
)
COLUMNS = ("threshold", "row", "center", "metric", "value", "low", "high", "count", "seeds")


@dataclass(frozen=True)
class DetectionReport:
    """Sheets (one for each threshold), notes, and the lines of the CSV."""

    sheets: tuple[Sheet, ...]
    notes: tuple[str, ...]
    lines: tuple[dict[str, Any], ...]

    @property
    def markdown(self) -> str:
        """The whole report."""
        notes = "\n".join(f"- {note}" for note in self.notes)
        return "\n".join([f"## {TITLE}\n", *map(to_markdown, self.sheets), notes]) + "\n"

    @property
    def csv(self) -> str:
        """A line per number."""
        return to_csv(COLUMNS, self.lines)


def make_detection_report(
    rows: Rows, keys: Keys, source: str = "", free: LesionFree = NO_SCANS
) -> DetectionReport:
    """Every row of `keys` (what `table_keys` gives) that has results; the others are named.

    `source`: where the rows were read, a note of its own. `free`: lesion-free scans beyond the
    rows' own cases.
    """
    found, notes = measure_places(rows, keys, free)
    lines, sheets = [], []
    for threshold in dict.fromkeys(threshold for threshold, _, _ in found):
        of_threshold = {p[1:]: part for p, part in found.items() if p[0] == threshold}
        sheet, of_sheet = _make_sheet(threshold, of_threshold, keys)
        sheets.append(sheet)
        lines += of_sheet
    notes += [*count_free(found), *free.notes]
    if free.scans:
        notes.append(DRAWN)
    notes = [LEGEND, *notes, *([source] if source else [])]
    return DetectionReport(tuple(sheets), tuple(notes), tuple(lines))


def count_free(found: Mapping[Place, Patients]) -> list[str]:
    """How many lesion-free scans each center's rows have, a sentence for each number."""
    rows_of: dict[tuple[str, int], dict[str, None]] = {}
    for (_, row, center), part in found.items():
        number = int(np.count_nonzero(~part.has_lesion))
        rows_of.setdefault((center, number), {})[row] = None
    several = [center for center, _ in rows_of]
    notes = []
    for (center, number), rows in sorted(rows_of.items()):
        whose = f" ({', '.join(rows)})" if several.count(center) > 1 else ""
        what = f"{number} lesion-free scan{'s' * (number != 1)}" if number else NO_FREE
        notes.append(f"{center}{whose}: {what}.")
    return notes


def measure_places(
    rows: Rows, keys: Keys, free: LesionFree
) -> tuple[dict[Place, Patients], list[str]]:
    """The patients of each place, and which rows lack results or these columns."""
    found: dict[Place, Patients] = {}
    absent: dict[str, list[tuple[Place, str]]] = {"not run": [], NOT_MEASURED: []}
    notes = []
    for place, of_seeds in keys.items():
        threshold, row, center = place
        cases = free.cases(rows, of_seeds)
        if cases is None:
            seeds = [key.seed for key in of_seeds if rows.select(key) is None]
            which = "" if len(seeds) == len(of_seeds) else f" (seed {', '.join(map(str, seeds))})"
            absent["not run"].append((place, which))
            continue
        try:
            part = measure_patients(cases)
        except ValueError as error:
            notes.append(f"{row}, {threshold}, {center} is left out: {error}.")
            continue
        if part is None:
            absent[NOT_MEASURED].append((place, ""))
        else:
            found[place] = part
    of_each = len({place[::2] for place in keys})  # thresholds and centers
    for why, places in absent.items():
        if places:
            notes.append(f"{why[0].upper()}{why[1:]}: {_name_places(places, of_each)}.")
    return found, notes


def _make_sheet(
    threshold: str, found: Mapping[tuple[str, str], Patients], keys: Keys
) -> tuple[Sheet, list[dict[str, Any]]]:
    centers = tuple(dict.fromkeys(center for _, _, center in keys))
    rows = [row for row in dict.fromkeys(p[1] for p in keys) if any(row == r for r, _ in found)]
    groups, lines = [], []
    for center in (*centers, *([MEAN] if len(centers) > 1 else [])):
        shown = []
        for row in rows:
            names = centers if center == MEAN else (center,)
            parts = [found[row, name] for name in names if (row, name) in found]
            if len(parts) < len(names):
                shown.append((row, *["-"] * len(METRICS)))
                continue
            values = {name: measured(parts) for name, (_, measured) in METRICS.items()}
            shown.append((row, *map(_show, values.values())))
            place: dict[str, Any] = {"threshold": threshold, "row": row, "center": center}
            place["seeds"] = len(parts[0].scores)
            lines += [place | _to_line(name, value) for name, value in values.items()]
        groups.append(Group(center, tuple(shown)))
    header = ("", *(heading for heading, _ in METRICS.values()))
    return Sheet(THRESHOLD_TEXTS[threshold], header, tuple(groups)), lines


def _show(value: Value) -> str:
    if value.value is None:
        return "-"
    text = f"{value.value:.2f}"
    if value.interval is not None:
        text += f" [{value.interval.low:.2f}, {value.interval.high:.2f}]"
    return f"{text} ({value.count})"


def _to_line(name: str, value: Value) -> dict[str, Any]:
    bounds = (None, None) if value.interval is None else vars(value.interval).values()
    low, high = bounds
    return {"metric": name, "value": value.value, "low": low, "high": high, "count": value.count}


def _name_places(places: Sequence[tuple[Place, str]], of_each: int) -> str:
    """Each row with its centers, first those that lack all `of_each` of them by name alone."""
    by_row: dict[str, list[str]] = {}
    for (threshold, row, center), which in places:
        by_row.setdefault(row, []).append(f"{center}, threshold {threshold}{which}")
    whole = [row for row, of_row in by_row.items() if len(of_row) == of_each]
    parts = [", ".join(whole)] if whole else []
    parts += [f"{row} ({'; '.join(p)})" for row, p in by_row.items() if row not in whole]
    return "; ".join(parts)
