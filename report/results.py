"""A folder of results -> the contents of its page."""

from __future__ import annotations

import csv
import functools
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.case_metrics import Row
from report.contents import Contents, Curve, ReportCase, ReportTable, ResultRows
from report.evaluated import (
    Evaluated,
    Images,
    chain_of,
    choose_layers,
    find_evaluated,
    name_groups,
    page_order,
    read_evaluated,
    with_previous,
)
from reproduce.analysis.collect import COUNTED_AT, count_network, name_columns
from reproduce.analysis.export import checked_out
from reproduce.analysis.paper_tables import ROW_NAMES, TABLES
from reproduce.analysis.rows import EXPERIMENT, ResultKey, Rows, read_results
from reproduce.analysis.run_table import describe_results, keys_of_results
from reproduce.analysis.tables import Report, Table, make_report, name_missing
from reproduce.experiments.plan import read_experiment
from utils.stages import N_FOLDS, STAGE_NAMES

MAX_RUNS = 24  # trainings whose curves are drawn
WHAT = (
    "the folder of an experiment (--out of demo.py or reproduce/run.py), of an evaluation "
    "(checkpoints/RUN/evaluation_...), of a run, or of exported cases (results/NAME)"
)


def read_contents(folder: Path, centers: Path | None = None, images: bool = True) -> Contents:
    """What a page shows of a folder of results.

    `centers`: where the images are, else what the runs were trained with; `images`: False for a
    page without them. Raises FileNotFoundError where nothing finished is there, ValueError where
    images are missing.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give {WHAT}")
    if _is_export(folder):
        return exported_contents(folder)
    found, own_centers = _find(folder)
    evaluations = sorted(with_previous(found), key=page_order)
    if not evaluations:
        raise FileNotFoundError(f"{folder}: no finished evaluation there; give {WHAT}")
    pictured = Images.of(evaluations, centers or own_centers) if images else None
    return evaluated_contents(folder.resolve().name, evaluations, pictured)


def _is_export(folder: Path) -> bool:
    note = folder / EXPERIMENT
    return note.is_file() and "exports" in json.loads(note.read_text(encoding="utf-8"))


def _find(folder: Path) -> tuple[list[Evaluated], Path | None]:
    """The evaluations of a folder, and an experiment's centers.toml."""
    if (folder / "cases.csv").is_file():
        return [read_evaluated(folder)], None
    if (folder / "run.json").is_file():
        return find_evaluated([folder]), None
    plan = read_experiment(folder)
    if plan is None:
        raise FileNotFoundError(f"{folder}: holds no results; give {WHAT}")
    return find_evaluated(sorted(plan.checkpoints.glob(f"{plan.time}_*"))), plan.centers


def evaluated_contents(
    name: str, evaluations: Sequence[Evaluated], images: Images | None
) -> Contents:
    """The page of evaluations on disk, the first of which it opens with."""
    names = name_groups(item.group for item in evaluations)
    results: dict[str, list[Row]] = {}
    places: dict[tuple[str, str], None] = {}
    for item in evaluations:
        rows = results.setdefault(names[item.group], [])
        for row in item.rows:
            places.setdefault((item.center, str(row["case_id"])))
            rows.append({**row, "center": item.center})
    cases = []
    for center, case_id in places:
        load = None
        if images is not None:
            here = [item for item in evaluations if item.center == center]
            layers = choose_layers(case_id, here, names)
            load = functools.partial(images.load, center, case_id, layers)
        cases.append(ReportCase(case_id, center, load))
    runs = {item.run.folder: item for item in evaluations}
    first, drawn = evaluations[0], list(runs.values())[:MAX_RUNS]
    return Contents(
        title=f"Results of {name}",
        cases=cases,
        results=[ResultRows(name, rows) for name, rows in results.items()],
        lead=[describe(evaluations)],
        tables=paper_tables(evaluated_rows(evaluations)),
        curves=[curve for item in drawn for curve in run_curves(item)],
        curves_note=f"{len(drawn)} of {len(runs)} trainings shown." if len(runs) > MAX_RUNS else "",
        facts={
            "results": name,
            "commit of the code that made this page": checked_out(),
            **_environment(first.run.folder),
        },
        checkpoints={
            item.run.folder.name: str(item.origin["checkpoint_sha256"])
            for item in chain_of(first) + list(runs.values())
        },
    )


def describe(evaluations: Sequence[Evaluated]) -> str:
    """One sentence: who was tested, on whom, what had trained."""
    first = evaluations[0]
    centers = " and ".join(dict.fromkeys(item.center for item in evaluations))
    methods = dict.fromkeys(str(item.origin["method"]) for item in evaluations)
    told = ", ".join(ROW_NAMES.get(method, method) for method in methods)
    sources = " and ".join(first.origin["sources"])
    what = f"Method {told}" if len(methods) == 1 else f"Methods {told}"
    if len({item.center for item in evaluations}) > 1:
        return (
            f"{what}, tested on {centers}, each of them unseen by the training it was tested with."
        )
    stage = str(first.origin["stage"]).replace("_", " ")
    return f"{what}, tested on {centers}; {stage} was trained on {sources}."


def evaluated_rows(evaluations: Sequence[Evaluated]) -> Rows:
    """As the tables of `reproduce/` read them; four folds make one result, fewer make none."""
    found: dict[ResultKey, dict[int, list[Row]]] = {}
    networks = {}
    compares = len({item.origin["method"] for item in evaluations}) > 1  # else no table of costs
    for item in evaluations:
        key, fold = _key(item), item.run.fold or 0
        found.setdefault(key, {})[fold] = [name_columns(row, key, fold) for row in item.rows]
        place = (key.method, key.stage)
        if compares and key.stage in COUNTED_AT and place not in networks:
            networks[place] = count_network(item.run.folder / "config.json", key.stage)
    whole = {
        key: [row for _, rows in sorted(folds.items()) for row in rows]
        for key, folds in found.items()
        if not key.folds or len(folds) == N_FOLDS
    }
    tested = dict.fromkeys(item.center for item in evaluations if not _key(item).heldout)
    return Rows(whole, networks, tuple(sorted(tested)))


def _key(item: Evaluated) -> ResultKey:
    origin = item.origin
    heldout = item.center if origin["tested_cases"] == "heldout" else ""
    return ResultKey(
        stage=str(origin["stage"]),
        target=str(item.run.target or item.center),
        method=str(origin["method"]),
        seed=int(origin["seed"] or 0),
        roi_source=str(origin["roi_source"]),
        threshold="source-val" if origin["threshold_source"] == "source-val" else "target",
        folds=item.run.fold is not None,
        heldout=heldout,
    )


def paper_tables(rows: Rows) -> list[ReportTable]:
    """The paper's tables that have a number of ours; those that compare methods need another
    than the default one."""
    found: list[ReportTable] = []
    for table in TABLES.values() if rows.centers else ():
        report = make_report(table, rows, keys_of_results(table, rows))
        if _is_worth_it(table, report):
            missing = [f"Not measured: {line}." for line in name_missing(report.missing)]
            found.append(ReportTable(report.title, report.sheets, (*report.notes, *missing)))
    return found


def _is_worth_it(table: Table, report: Report) -> bool:
    measured = {line.row for line in report.lines if line.ours is not None and line.center}
    methods = {row.method for row in table.rows if row.stage is not None}
    ours = {row.method for row in table.rows if row.name in measured and row.stage is not None}
    if len(methods) > 1 and table.baseline is not None:
        return bool(ours - {"ours"})
    return len(ours) >= min(len(methods), 2)


def run_curves(item: Evaluated) -> list[Curve]:
    """The losses of a run over its epochs (each the mean of its steps), and its held-out Dice."""
    folder, run = item.run.folder, item.run
    stage = str(item.origin["stage"]).replace("_", " ")
    title = f"{stage}, {ROW_NAMES.get(run.method, run.method)}, trained on {'+'.join(run.sources)}"
    title += f", seed {run.seed}" + ("" if run.fold is None else f", fold {run.fold}")
    curves = []
    epochs, lines = epoch_means(folder / "log.csv")
    if epochs:
        curves.append(Curve(title, epochs, lines, unit="loss terms", log=True))
    heldout = _read_columns(folder / "heldout.csv")
    if heldout:
        (_, over), *measured = heldout.items()
        curves.append(Curve(title, over, dict(measured), unit="Dice of held-out cases"))
    return curves


def epoch_means(path: Path) -> tuple[list[float], dict[str, list[float]]]:
    """log.csv -> its epochs, counted from 1, and the mean of each loss term in each of them."""
    columns = _read_columns(path)
    if not columns:
        return [], {}
    of_epoch = np.array(columns["epoch"])
    epochs = np.unique(of_epoch)
    beside = ("step", "epoch", "lr", "grad_norm", "cases")
    lines = {}
    for name, values in columns.items():
        known = np.array(values)
        if name not in beside and np.isfinite(known).any():
            lines[name] = [
                float(np.mean(part)) if len(part := _finite(known[of_epoch == e])) else math.nan
                for e in epochs
            ]
    if len(lines) == 2 and lines.get("total") in list(lines.values())[1:]:
        del lines["total"]  # of one term alone it is that term
    return [float(epoch) + 1 for epoch in epochs], lines


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _read_columns(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV; what is no number is NaN. Empty where the file is missing or empty."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: [_number(row.get(name)) for row in rows] for name in (rows[0] if rows else {})}


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def _environment(run: Path) -> dict[str, str]:
    """The command that trained a run, and with what."""
    path = run / "environment.json"
    if not path.is_file():
        return {}
    facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    words = [Path(word).name if Path(word).is_absolute() else word for word in facts["command"]]
    return {
        f"training of {run.name}": shlex.join(["python", *words]),
        "trained with": f"Python {facts['python']}, torch {facts['packages']['torch']}",
    }


def exported_contents(folder: Path) -> Contents:
    """The page of exported cases, `results/NAME/`: numbers without images."""
    rows = read_results(folder)
    facts = json.loads((folder / EXPERIMENT).read_text(encoding="utf-8"))
    keys = sorted(rows.evaluations, key=_export_order)
    groups = {
        key: (key.stage, key.method, key.seed, key.roi_source, key.threshold, _tested(key))
        for key in keys
    }
    names = name_groups(groups.values())
    results: dict[str, list[Row]] = {}
    cases: dict[tuple[str, str], None] = {}
    for key in keys:
        name = names[groups[key]] + (", four folds" if key.folds else "")
        for row in rows.evaluations[key]:
            results.setdefault(name, []).append(row)
            cases.setdefault((str(row["center"]), str(row["case_id"])))
    last = facts["exports"][-1]
    return Contents(
        title=f"Results of {folder.resolve().name}",
        cases=[ReportCase(case_id, center) for center, case_id in cases],
        results=[ResultRows(name, found) for name, found in results.items()],
        lead=[describe_results(folder.resolve(), facts)],
        tables=paper_tables(rows),
        facts={
            "results": folder.resolve().name,
            "commit of the code that trained": str(last["commit"]),
            "command": str(last["command"]),
            "machine": str(last["machine"]),
        },
    )


def _tested(key: ResultKey) -> str:
    return "heldout" if key.heldout else "test"


def _export_order(key: ResultKey) -> tuple[Any, ...]:
    return (
        bool(key.heldout),
        key.folds,
        -STAGE_NAMES.index(key.stage),
        key.threshold == "source-val",
        key.roi_source != "seg",
        key.method != "ours",
        key.method,
        key.seed,
        key.target,
    )
