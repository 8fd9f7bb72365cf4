"""Result folders for the tests of tables: runs as `fit` leaves them, measures of our own choice."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.centers import load_centers
from data.splits import Split
from engine.case_metrics import Row, write_cases
from engine.run_folders import create_run, mark_done
from reproduce.analysis.paper_tables import TABLE5_METHODS
from reproduce.analysis.tables import Report
from reproduce.experiments.cells import Cell, make_cell, steps_of
from reproduce.experiments.plan import Plan
from tests._evaluation_fixtures import write_toml
from utils.files import write_json
from utils.stages import STAGES

TIME = "20250101-000000"
PAPER_CENTERS = ("RMYY", "MSD", "RENJI")


def make_row(case_id: str, dsc: float, asd_mm: float = 2.0, hd95_mm: float = 8.0) -> Row:
    """A line of cases.csv."""
    surface = {"asd_mm": asd_mm, "hd95_mm": hd95_mm, "hd95_max_mm": 2 * hd95_mm}
    return {"case_id": case_id, "dsc": dsc, **surface, "seconds": 3.0, "threshold": 0.5}


def make_rows(dscs: Sequence[float]) -> list[Row]:
    """Lines of cases a, b, c, ... with these DSC; ASD and HD follow from it, each its own way."""
    return [
        make_row("abcdefghijklmnopqrstuvwxyz"[i], dsc, asd_mm=40 - 0.4 * dsc, hd95_mm=100 - dsc)
        for i, dsc in enumerate(dscs)
    ]


def empty_row(case_id: str) -> Row:
    """A line of a case whose prediction is empty: the protocol's constants."""
    return make_row(case_id, 0.0, 40.0, 100.0) | {"hd95_max_mm": 100.0, "empty": "pred"}


def make_plan(folder: Path, names: Sequence[str] = PAPER_CENTERS, **more: Any) -> Plan:
    """A plan in `folder` whose centers.toml has these centers, and NIH without lesions."""
    tables: dict[str, dict[str, Any]] = {name: {} for name in names}
    toml = write_toml(folder / "centers.toml", {**tables, "NIH": {"has_lesions": "false"}})
    return Plan(toml, folder / "checkpoints", folder / "cache", time=TIME, **more)


def fill(plan: Plan, cell: Cell, rows: Sequence[Row], **summary: Any) -> list[Path]:
    """Make the runs and the finished results of a cell; four-fold cells share the rows out."""
    trainings = [s for s in steps_of(plan, cell) if s.kind == "train" and s.stage == cell.stage]
    folders = []
    for number, step in enumerate(trainings):
        config = step.config
        fold = None if config.fold is None else int(config.fold)
        split = Split(config.sources or (cell.target,), cell.target, (), (), fold)
        run = create_run(config, TIME, split)
        mark_done(run.folder)
        name = f"evaluation_{cell.target}_{cell.roi_source}"
        if STAGES[cell.stage].target == "tumor":
            name += f"_{cell.threshold}"
        folder = run.folder / name
        folder.mkdir(exist_ok=True)
        write_cases(folder / "cases.csv", rows[number :: len(trainings)])
        write_json(folder / "summary.json", {"target": cell.target, **summary})
        mark_done(folder)
        folders.append(folder)
    return folders


def random_rows(cases: int, mean: float, seed: int) -> list[Row]:
    """Lines of many cases, DSC around `mean`, the first one empty."""
    rng = np.random.default_rng(seed)
    dscs = np.clip(rng.normal(mean, 15, cases), 0, 100)
    rows = [
        make_row(f"case_{i:03d}", float(d), *map(float, rng.uniform(1, 30, 2)))
        for i, d in enumerate(dscs)
    ]
    return [empty_row("case_000"), *rows[1:]]


def markdown_cells(markdown: str) -> list[dict[str, dict[str, str]]]:
    """Each pipe table: "group / row" -> heading -> cell."""
    tables: list[dict[str, dict[str, str]]] = []
    for block in markdown.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if len(lines) < 3:
            continue
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        found, group = {}, ""
        for row in rows[2:]:
            if row[0].startswith("**"):
                group = row[0].strip("*") + " / "
            else:
                found[group + row[0]] = dict(zip(rows[0], row, strict=True))
        tables.append(found)
    return tables


def cell(plan: Plan, stage: str, target: str, **more: object) -> Cell:
    return make_cell(load_centers(plan.centers), stage, target, **more)


def csv_lines(report: Report) -> dict[tuple[str, str, str, str], dict[str, str]]:
    """(threshold, row, center, metric) -> the line of the table's CSV."""
    rows = csv.DictReader(io.StringIO(report.csv))
    return {(r["threshold"], r["row"], r["center"], r["metric"]): r for r in rows}


def shifted(rows: Sequence[Row], amounts: Sequence[float]) -> list[Row]:
    return [row | {"dsc": row["dsc"] + by} for row, by in zip(rows, amounts, strict=True)]


def fill_model(
    plan: Plan,
    target: str,
    row: str,
    unseen: Sequence[float],
    seen: dict[str, Sequence[float]] | None = None,
    seed: int = 2022,
) -> Path:
    """Results of a fine model on its target, and on held-out cases of its sources; its folder."""
    of_target = cell(plan, "tumor_fine", target, method=TABLE5_METHODS[row], seed=seed)
    (folder,) = fill(plan, of_target, make_rows(unseen))
    for name, dscs in (seen or {}).items():
        heldout = folder.parent / f"evaluation_{name}_seg_heldout"
        write_cases(heldout / "cases.csv", make_rows(dscs))
        mark_done(heldout)
    return folder.parent
