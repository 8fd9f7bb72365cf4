"""Table I and the lists next to it, from the figures of every case: text and CSV."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.quality.survey import TINY_LESION_MM3, CaseFacts
from data.readers.dicom import ACQUISITION_TAGS

# row of paper/table1_datasets.csv -> (what is printed, tag it comes from)
SCANNER_ROWS = {
    "manufacturer": ("manufacturer", "manufacturer"),
    "tube_voltage_kvp": ("tube voltage (kVp)", "tube_voltage_kvp"),
    "tube_current_mas": ("tube current (mAs)", "exposure_mas"),
    "tube_current_ma": ("tube current (mA)", "tube_current_ma"),
    "spiral_pitch_factor": ("spiral pitch factor", "spiral_pitch_factor"),
}
TITLES = {
    "cases": "cases",
    "patients": "patients",
    "slices": "slices",
    "spacing_mm": "spacing (mm)",
    "thickness_mm": "thickness (mm)",
    **{row: title for row, (title, _) in SCANNER_ROWS.items()},
    "cases_with_lesion": "cases with lesion",
    "pancreas_ml": "pancreas (ml), median [range]",
    "lesions": "lesions",
    "lesion_mm3": "lesion (mm3), median [range]",
    "lesion_part": "lesions in head/body/tail third",
    "tiny_lesions": f"lesions under {TINY_LESION_MM3:.0f} mm3",
}
UNKNOWN = "-"


def describe_center(facts: Sequence[CaseFacts]) -> dict[str, str]:
    """Table I's column of one center: row -> text, "-" where the files do not tell."""
    lesions = [lesion for case in facts for lesion in case.lesions]
    volumes = [lesion.volume_mm3 for lesion in lesions]
    parts = Counter(lesion.part for lesion in lesions)
    column = {
        "cases": str(len(facts)),
        "patients": str(len({case.patient_id for case in facts})),
        "slices": _range([case.shape[0] for case in facts], "{:.0f}"),
        "spacing_mm": _range([step for case in facts for step in case.spacing[1:]], "{:.2f}"),
        "thickness_mm": _range([case.spacing[0] for case in facts], "{:.2f}"),
        "cases_with_lesion": str(sum(bool(case.lesions) for case in facts)),
        "pancreas_ml": _median([case.pancreas_ml for case in facts if case.labeled], "{:.1f}"),
        "lesions": str(len(lesions)),
        "lesion_mm3": _median(volumes, "{:.0f}"),
        "lesion_part": "/".join(str(parts[part]) for part in ("head", "body", "tail")),
        "tiny_lesions": str(sum(volume < TINY_LESION_MM3 for volume in volumes)),
    }
    for row, (_, tag) in SCANNER_ROWS.items():
        column[row] = _values([case.acquisition[tag] for case in facts if tag in case.acquisition])
    return {row: column[row] for row in TITLES}


def format_table(columns: dict[str, dict[str, str]]) -> str:
    """Table I as aligned text: a line per row, a column per center."""
    rows = [["", *columns]]
    rows += [[title, *(c[row] for c in columns.values())] for row, title in TITLES.items()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def write_table(path: Path, columns: dict[str, dict[str, str]]) -> None:
    """Table I as CSV, rows named as in paper/table1_datasets.csv."""
    rows = [[row, *(column[row] for column in columns.values())] for row in TITLES]
    write_csv(path, ["parameter", *columns], rows)


def write_cases(path: Path, facts: Iterable[CaseFacts]) -> None:
    """One line per readable case."""
    header = [
        *("center", "case_id", "patient_id", "slices", "rows", "columns"),
        *("thickness_mm", "spacing_y_mm", "spacing_x_mm"),
        *("pancreas_ml", "lesions", "tumor_mm3"),
        *ACQUISITION_TAGS,
        "warnings",
    ]
    rows = [
        [
            *(case.center, case.case_id, case.patient_id, *case.shape),
            *(f"{step:.4f}" for step in case.spacing),
            f"{case.pancreas_ml:.2f}" if case.labeled else "",
            len(case.lesions) if case.labeled else "",
            f"{sum(lesion.volume_mm3 for lesion in case.lesions):.1f}" if case.labeled else "",
            *(case.acquisition.get(tag, "") for tag in ACQUISITION_TAGS),
            "; ".join(case.warnings),
        ]
        for case in facts
    ]
    write_csv(path, header, rows)


def write_lesions(path: Path, facts: Iterable[CaseFacts]) -> None:
    """One line per lesion: volume, centroid in mm (LPS) and its place in the pancreas's box."""
    header = [
        *("center", "case_id", "lesion", "volume_mm3", "x_mm", "y_mm", "z_mm"),
        *("place_z", "place_y", "place_x", "part", "tiny"),
    ]
    rows = [
        [
            *(case.center, case.case_id, number, f"{lesion.volume_mm3:.1f}"),
            *(f"{mm:.1f}" for mm in lesion.centroid_mm),
            *(f"{place:.3f}" for place in lesion.place),
            *(lesion.part, int(lesion.volume_mm3 < TINY_LESION_MM3)),
        ]
        for case in facts
        for number, lesion in enumerate(case.lesions, 1)
    ]
    write_csv(path, header, rows)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A CSV file with a header line."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return UNKNOWN
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}-{high}"


def _median(values: Sequence[float], form: str) -> str:
    if not values:
        return UNKNOWN
    return f"{form.format(float(np.median(values)))} [{_range(values, form)}]"


def _values(texts: Sequence[str]) -> str:
    """Numbers as their range where there are many, else each value once, as Table I does."""
    different = sorted(set(texts))
    try:
        numbers = [float(text) for text in different]
    except ValueError:
        return "/".join(different)
    if not numbers:
        return UNKNOWN
    return (
        _range(numbers, "{:g}") if len(numbers) > 3 else "/".join(f"{n:g}" for n in sorted(numbers))
    )
