"""Rows for the tests of tables and statistics: numbers of our own choice, no checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.case_metrics import Row
from reproduce.analysis.lesion_free import LesionFreeScan
from reproduce.analysis.paper_tables import ROW_NAMES, TABLE5_METHODS
from reproduce.analysis.rows import (
    EXPERIMENT,
    Network,
    ResultKey,
    Rows,
    digest_files,
    write_results,
)
from reproduce.analysis.tables import Report, Table, make_report, table_keys
from utils.files import write_json

PAPER_CENTERS = ("RMYY", "MSD", "RENJI")
SEED = 2022
NETWORKS = {
    (method, stage): Network(18_957_825, 300_000_000_000 + 10 * number)
    for method in TABLE5_METHODS.values()
    for number, stage in enumerate(("tumor_coarse", "tumor_fine"))
}


def make_case(case_id: str, dsc: float, asd_mm: float = 2.0, hd95_mm: float = 8.0) -> Row:
    """A case of `Rows`."""
    surface = {"asd_mm": asd_mm, "hd95_mm": hd95_mm, "hd95_max_mm": 2 * hd95_mm}
    return {"case_id": case_id, "dsc": dsc, **surface, "seconds": 3.0, "threshold_value": 0.5}


def make_cases(dscs: Sequence[float]) -> list[Row]:
    """Cases a, b, c, ... with these DSC; ASD and HD follow from it, each its own way."""
    return [
        make_case("abcdefghijklmnopqrstuvwxyz"[i], dsc, asd_mm=40 - 0.4 * dsc, hd95_mm=100 - dsc)
        for i, dsc in enumerate(dscs)
    ]


def empty_case(case_id: str) -> Row:
    """A case whose prediction is empty: the protocol's constants."""
    return make_case(case_id, 0.0, 40.0, 100.0) | {"hd95_max_mm": 100.0, "empty": "pred"}


def make_scan(
    case_id: str, target: str = "A", seed: int = 1, *, pred_ml: float = 0.0, prob: float = 0.2
) -> LesionFreeScan:
    """A lesion-free scan in which BL found so much, as sure as that."""
    false = f"{prob:g}" if pred_ml else ""
    return LesionFreeScan(
        "bl", "BL", target, seed, "target", case_id, 0.5, prob, pred_ml, false, "", "0"
    )


def random_cases(cases: int, mean: float, seed: int) -> list[Row]:
    """Many cases, DSC around `mean`, the first one empty."""
    rng = np.random.default_rng(seed)
    dscs = np.clip(rng.normal(mean, 15, cases), 0, 100)
    rows = [
        make_case(f"case_{i:03d}", float(d), *map(float, rng.uniform(1, 30, 2)))
        for i, d in enumerate(dscs)
    ]
    return [empty_case("case_000"), *rows[1:]]


def shifted(rows: Sequence[Row], amounts: Iterable[float]) -> list[Row]:
    """The same cases with other DSC."""
    return [row | {"dsc": row["dsc"] + by} for row, by in zip(rows, amounts, strict=True)]


def key(stage: str, target: str, method: str = "ours", seed: int = SEED, **more: Any) -> ResultKey:
    """A key, of the one seed where none is given."""
    return ResultKey(stage, target, method, seed, **more)


def make_rows(
    evaluations: Mapping[ResultKey, Sequence[Row]], centers: Sequence[str] = PAPER_CENTERS
) -> Rows:
    """Rows of these evaluations; each case gets its center."""
    named = {
        of: [row | {"center": of.heldout or of.target} for row in cases]
        for of, cases in evaluations.items()
    }
    return Rows(named, NETWORKS, tuple(centers))


def report_of(
    table: Table,
    rows: Rows,
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] = (SEED,),
    thresholds: Sequence[str] | None = None,
) -> Report:
    """The report of a table on the rows' centers."""
    shown = rows.centers if targets is None else targets
    keys = table_keys(table, shown, seeds, thresholds or table.thresholds)
    return make_report(table, rows, keys)


def benchmark_rows(
    dsc: Callable[[str, str, int], np.ndarray],
    centers: Sequence[str] = ("A", "B", "C"),
    seeds: Sequence[int] = (1, 2, 3),
) -> Rows:
    """Every result that the benchmark reads; `dsc(row, target, seed)`: DSC of the fine stage.

    The coarse stage has 5 less, the held-out cases of seen centers (the first two) 20 more.
    """
    found: dict[ResultKey, Sequence[Row]] = {}
    for row, method in TABLE5_METHODS.items():
        for target in centers:
            for seed in seeds:
                dscs = dsc(row, target, seed)
                for threshold in ("target", "source-val"):
                    of = key("tumor_fine", target, method, seed, threshold=threshold)
                    found[of] = make_cases(dscs.tolist())
                    of = key("tumor_coarse", target, method, seed, threshold=threshold)
                    found[of] = make_cases((dscs - 5).tolist())
                for center in centers:
                    if center != target:
                        of = key("tumor_fine", target, method, seed, heldout=center)
                        found[of] = make_cases((dsc(row, center, seed) + 20)[:2].tolist())
    return make_rows(found, centers)


def write_experiment(folder: Path, rows: Rows) -> Path:
    """An experiment's folder as the exporter writes it."""
    write_results(folder, rows, ROW_NAMES)
    facts = {
        "experiment": folder.name,
        "preset": "small",
        "centers": list(rows.centers),
        "phantoms": "Phantoms(cases=3)",
        "files": digest_files(folder),
        "exports": [
            {
                "command": "python reproduce/run.py --what benchmark",
                "commit": "abc1234",
                "date": "20260101-000000",
                "machine": "2 cores",
                "packages": {"torch": "2.13.0"},
                "not_run": [],
            }
        ],
    }
    write_json(folder / EXPERIMENT, facts)
    return folder
