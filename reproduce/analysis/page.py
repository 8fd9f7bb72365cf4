"""What docs/results.md and comparison.md are made of: experiments of results/, each read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reproduce.analysis.compare import Line
from reproduce.analysis.paper_tables import TABLE5_COARSE, TABLES
from reproduce.analysis.rows import EXPERIMENT, Rows, read_facts, read_results
from reproduce.analysis.run_table import keys_of_own_seeds, keys_of_results
from reproduce.analysis.tables import Table, make_report

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Experiment:
    """One folder of results/: its rows, and experiment.json."""

    folder: Path
    rows: Rows
    facts: Mapping[str, Any]
    measured: dict[str, tuple[Line, ...]] = field(default_factory=dict)  # each table is made once

    @property
    def targets(self) -> tuple[str, ...]:
        """The centers that have been tested, in the experiment's order."""
        tested = {key.target for key in self.rows.evaluations if not key.heldout}
        return tuple(name for name in self.rows.centers if name in tested)

    def lines(self, name: str) -> tuple[Line, ...]:
        """The numbers of a table; `table5_coarse` is Table V's rows before the fine stage."""
        if name not in self.measured:
            table = TABLE5_COARSE if name == TABLE5_COARSE.name else TABLES[name]
            self.measured[name] = own_lines(table, self.rows, self.targets)
        return self.measured[name]


@dataclass(frozen=True)
class Page:
    """Everything that a placeholder can ask for."""

    results: Path
    experiments: dict[str, Experiment | None] = field(default_factory=dict)  # each is read once

    def experiment(self, name: str) -> Experiment | None:
        """The experiment of that name; None where it is not exported."""
        if name not in self.experiments:
            folder = self.results / name
            there = (folder / EXPERIMENT).is_file()
            self.experiments[name] = (
                Experiment(folder, read_results(folder), read_facts(folder)) if there else None
            )
        return self.experiments[name]


def own_lines(table: Table, rows: Rows, targets: Sequence[str]) -> tuple[Line, ...]:
    """The numbers of a table, each row with the seeds that it shares with the baseline.

    It is compared with the baseline's trainings of the same seeds.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    of_rows = keys_of_own_seeds(table, rows, targets, table.baseline)
    for (threshold, row, _), of_seeds in of_rows.items():
        names = groups.setdefault((threshold, tuple(key.seed for key in of_seeds)), [])
        names += [] if row in names else [row]
    found: dict[tuple[str, str], list[Line]] = {}
    for (threshold, seeds), names in groups.items():
        shown = tuple(row for row in table.rows if row.name in (*names, table.baseline))
        part = replace(table, rows=shown, extra=None)
        every = keys_of_results(part, rows, targets, seeds)
        keys = {place: own for place, own in every.items() if place[0] == threshold}
        for line in make_report(part, rows, keys).lines:
            if line.row in names:
                found.setdefault((threshold, line.row), []).append(line)
    order = [(threshold, row.name) for threshold in table.thresholds for row in table.rows]
    return tuple(line for place in order for line in found.get(place, []))


def head(cells: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |", "| --- |" + " --- |" * (len(cells) - 1)]


def number(line: Line) -> str:
    """Two decimals; "-" where it is not known."""
    return "-" if line.ours is None else f"{line.ours:.2f}"


def not_run(names: Sequence[str]) -> list[str]:
    """The rows without results, in a sentence behind a table."""
    if not names:
        return []
    return ["", f"{NOT_MEASURED.capitalize()}: {', '.join(names)}."]
