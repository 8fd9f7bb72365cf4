"""The scripts of Tables II to VI: their arguments, and reading, printing and writing a table."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.centers import load_centers
from engine.command_line import run_script
from reproduce.analysis.compare import read_paper
from reproduce.analysis.tables import Report, Table, make_report, protocols_of, table_cells
from reproduce.experiments.cells import SEED
from reproduce.experiments.finished import missing_steps, read_cell
from reproduce.experiments.plan import Plan
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from reproduce.experiments.presets import PRESETS


def run_table(table: Table, argv: Sequence[str] | None = None) -> None:
    """Print a table and write it as Markdown, CSV and LaTeX; nothing is trained.

    What the user can mend (an unknown center, a broken file) ends it with a message and status 2.
    """
    parser = argparse.ArgumentParser(
        description=f"{table.title}: ours beside the paper's. Reads results only, never trains."
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add_table_arguments(parser)
    args = parser.parse_args(argv)

    def print_and_write(plan: Plan) -> None:
        seeds = args.seeds or PRESETS[plan.preset].seeds
        report = report_table(table, plan, args.targets, seeds)
        report.write(args.out or args.experiment)
        print(report.markdown)

    run_script(print_and_write, plan_of(args))


def report_table(
    table: Table, plan: Plan, targets: Sequence[str] | None = None, seeds: Sequence[int] = (SEED,)
) -> Report:
    """The report of a plan's results, with the commands that fill what is missing.

    `targets`: the centers to show (None: all with lesions). Raises ValueError for an unknown one.
    """
    centers = load_centers(plan.centers)
    unknown = [name for name in targets or () if name not in centers]
    if unknown:
        raise ValueError(
            f"--targets {' '.join(unknown)}: not in {plan.centers}, which has {', '.join(centers)}"
        )
    cells = table_cells(table, centers, targets, seeds, protocols_of(table, plan.holdout))
    report = make_report(table, cells, lambda cell: read_cell(plan, cell))
    absent = [cell for of_seeds in report.missing.values() for cell in of_seeds]
    commands = tuple(step.command for step in missing_steps(plan, absent))
    report = replace(report, commands=commands, notes=(*report.notes, describe_plan(plan, seeds)))
    if table.extra is None:
        return report
    by_row = {
        row.name: tuple(
            of_seeds[0]
            for (protocol, name, _), of_seeds in cells.items()
            if (protocol, name) == (table.protocols[0], row.name)
        )
        for row in table.rows
    }
    lines, sheet, note = table.extra(plan, by_row, read_paper(table.paper))
    return replace(
        report,
        lines=(*report.lines, *lines),
        sheets=(*report.sheets, sheet),
        notes=(*report.notes, note),
    )


def describe_plan(plan: Plan, seeds: Sequence[int]) -> str:
    """Which runs a table has read: those of other settings count as missing."""
    given = {"options": plan.options, **plan.stage_options, **plan.method_options}
    shown = [f"{name}: {shlex.join(words)}" for name, words in given.items() if words]
    return (
        f"Read were the finished runs of the experiment {plan.time} in {plan.checkpoints} with "
        f"seed {', '.join(map(str, seeds))}, preset {plan.preset}, holdout {plan.holdout:g} and "
        f"{'; '.join(shown) or 'no further options'}; other runs are not counted."
    )


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, and where to write it."""
    add = parser.add_argument
    text = "a case's values are their mean (default: the preset's)"
    add("--seeds", type=int, nargs="+", help=text)
    add("--targets", nargs="+", help="centers to show; none: all with lesions")
    add("--out", type=Path, help="folder to write to (default: the experiment's)")
