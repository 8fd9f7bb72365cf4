"""The demo's Tables II and III: one center, one protocol, whatever options its runs were given.

`reproduce/table2.py` and `table3.py` make the whole tables, of runs whose options are known.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.runs import find_runs

PAPER = Path(__file__).resolve().parents[1] / "paper"
METRICS = {"dsc": "DSC (%)", "asd_mm": "ASD (mm)", "hd95_mm": "HD (mm)"}
PAPER_NAMES = {"dsc": "dsc", "asd_mm": "asd", "hd95_mm": "hd"}


@dataclass(frozen=True)
class TableRow:
    """One row: its name in the paper, the stage and the ROI that give it, the paper's file."""

    name: str
    stage: str
    roi_source: str = "seg"


TABLE_2 = (TableRow("Coarse", "pancreas_coarse"), TableRow("Fine", "pancreas_fine"))
TABLE_3 = (
    TableRow("C-Seg", "tumor_coarse"),
    TableRow("F-Seg", "tumor_fine"),
    TableRow("C-Mask", "tumor_coarse", "mask"),
    TableRow("F-Mask", "tumor_fine", "mask"),
)
TABLES = {
    "table2_pancreas_generalized": ("Table II: generalized pancreas segmentation", TABLE_2),
    "table3_tumor_generalized": ("Table III: generalized tumor segmentation", TABLE_3),
}


def read_summaries(checkpoints: Path, row: TableRow, time: str | None = None) -> dict[str, Any]:
    """Target center -> summary.json of its newest finished evaluation of `row`."""
    found: dict[str, Any] = {}
    wanted = {} if time is None else {"time": time}
    for run in find_runs(checkpoints, row.stage, **wanted):
        for folder in sorted(run.folder.glob(f"evaluation_*_{row.roi_source}*")):
            if (folder / "done").is_file() and not folder.name.endswith(("_honest", "_heldout")):
                summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
                if summary["dsc"] is not None:
                    found.setdefault(summary["target"], summary)
    return found


def paper_means(table: str) -> dict[str, dict[str, float]]:
    """Row name -> the paper's means over its three centers, from `paper/<table>.csv`."""
    with (PAPER / f"{table}.csv").open(newline="", encoding="utf-8") as handle:
        rows = list(csv.reader(handle))
    columns = {name: rows[0].index(f"mean_{name}") for name in PAPER_NAMES.values()}
    return {row[0]: {name: float(row[i]) for name, i in columns.items()} for row in rows[1:]}


def table_markdown(
    table: str, checkpoints: Path, targets: Sequence[str], time: str | None = None
) -> str:
    """One table as Markdown: a column per metric and center, the mean, and the paper's mean.

    A cell whose evaluation is missing shows a dash; nothing is left out of a mean in silence.
    """
    title, rows = TABLES[table]
    paper = paper_means(table)
    heads = ["", *(f"{t} {label}" for t in targets for label in METRICS.values())]
    if len(targets) > 1:
        heads += [f"mean {label}" for label in METRICS.values()]
    heads += [f"paper {label}" for label in METRICS.values()] + ["cases", "empty"]
    lines = [f"### {title}", "", _line(heads), _line(["---"] * len(heads))]
    for row in rows:
        found = read_summaries(checkpoints, row, time)
        cells = [row.name]
        cells += [_cell(found.get(t, {}).get(metric)) for t in targets for metric in METRICS]
        if len(targets) > 1:
            cells += [_mean(found, targets, metric) for metric in METRICS]
        cells += [f"{paper[row.name][PAPER_NAMES[metric]]:.2f}" for metric in METRICS]
        cells.append(str(sum(found[t]["cases"] for t in targets if t in found)))
        cells.append(str(sum(len(found[t]["empty"]) for t in targets if t in found)))
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _mean(found: Mapping[str, Any], targets: Sequence[str], metric: str) -> str:
    if any(t not in found for t in targets):
        return "-"
    return _cell(float(np.mean([found[t][metric] for t in targets])))


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
