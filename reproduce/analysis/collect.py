"""Checkpoints -> `Rows`: the only module of the analysis that knows run folders."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from data.case import Center
from engine.case_metrics import Row, read_cases
from engine.external import read_cost
from methods import EXTERNAL, build_method, read_config, stages_of
from reproduce.analysis.method_costs import COUNTED_AT, count_stage
from reproduce.analysis.rows import RENAMED, Network, ResultKey, Rows
from reproduce.analysis.tables import Table, table_keys
from reproduce.experiments.cells import SEED, Cell, lesion_centers, make_cell
from reproduce.experiments.finished import find_folders
from reproduce.experiments.plan import Plan


def cell_of(centers: Mapping[str, Center], key: ResultKey) -> Cell:
    """The cell whose evaluation a key names (the target's cases, never held-out ones)."""
    return make_cell(
        centers,
        key.stage,
        key.target,
        method=key.method,
        roi_source=key.roi_source,
        folds=key.folds,
        threshold=key.threshold,
        seed=key.seed,
    )


def result_folders(plan: Plan, centers: Mapping[str, Center], key: ResultKey) -> list[Path]:
    """The finished folders of an evaluation: one, or one a fold; [] where any is missing."""
    folders = find_folders(plan, cell_of(centers, key))
    if not key.heldout or not folders:
        return folders
    name = f"evaluation_{key.heldout}_{key.roi_source}_heldout"
    beside = [folder.parent / name for folder in folders]
    return beside if all((folder / "done").is_file() for folder in beside) else []


def table_cells(
    table: Table,
    centers: Mapping[str, Center],
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] = (SEED,),
    thresholds: Sequence[str] | None = None,
) -> dict[tuple[str, str, str], tuple[Cell, ...]]:
    """The cells of a table by place (threshold, row, center), one for each seed.

    `targets`: the centers to show (None: all with lesions); `thresholds`: None for all of its own.
    """
    shown = lesion_centers(centers) if targets is None else targets
    keys = table_keys(table, shown, seeds, table.thresholds if thresholds is None else thresholds)
    return {
        place: tuple(cell_of(centers, key) for key in of_seeds) for place, of_seeds in keys.items()
    }


def collect_rows(
    plan: Plan,
    centers: Mapping[str, Center],
    keys: Iterable[ResultKey],
    networks: bool = False,
) -> Rows:
    """The rows of every evaluation of `keys` that is finished; `networks`: what theirs cost too."""
    evaluations: dict[ResultKey, list[Row]] = {}
    costs: dict[tuple[str, str], Network] = {}
    for key in dict.fromkeys(keys):
        folders = result_folders(plan, centers, key)
        if not folders:
            continue
        evaluations[key] = [
            name_columns(row, key, fold)
            for fold, folder in enumerate(folders)
            for row in read_cases(folder / "cases.csv")
        ]
        place = (key.method, key.stage)
        if networks and key.stage in COUNTED_AT and place not in costs:
            costs[place] = count_network(folders[0].parent / "config.json", key.method, key.stage)
    return Rows(evaluations, costs, tuple(lesion_centers(centers)))


def with_earlier(keys: Iterable[ResultKey]) -> list[ResultKey]:
    """`keys`, and the coarse tumor stage before each fine one of a method that has it."""
    found: dict[ResultKey, None] = {}
    for key in keys:
        if key.stage == "tumor_fine" and "tumor_coarse" in stages_of(key.method):
            found.setdefault(ResultKey(**{**vars(key), "stage": "tumor_coarse"}))
        found.setdefault(key)
    return list(found)


@functools.lru_cache(maxsize=64)
def count_network(config: Path, method: str, stage: str) -> Network:
    """What a run's network costs, at the paper's input size of its stage.

    `config`: config.json in its folder. An external method's are those for its own input size.
    """
    if method in EXTERNAL:
        cost = read_cost(config.with_name("last.pt"))
        return Network(cost.complexity.parameters, cost.complexity.macs, *cost.budget)
    with torch.device("meta"):
        network = build_method(read_config(config)).network
    return count_stage(network, stage)


def name_columns(row: Row, key: ResultKey, fold: int) -> Row:
    """A line of cases.csv with its center, its fold and the columns' names in `Rows`."""
    named = {RENAMED.get(column, column): value for column, value in row.items()}
    where: Row = {"center": key.heldout or key.target}
    return named | where | ({"fold": fold} if key.folds else {})
