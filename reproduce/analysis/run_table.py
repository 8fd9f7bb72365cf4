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
from reproduce.experiments.cells import SEED, Plan
from reproduce.experiments.finished import exact_command, missing_steps, read_cell
from utils.stages import STAGE_NAMES


def run_table(table: Table, argv: Sequence[str] | None = None) -> None:
    """Print a table and write it as Markdown, CSV and LaTeX; nothing is trained.

    What the user can mend (an unknown center, a broken file) ends it with a message and status 2.
    """
    parser = argparse.ArgumentParser(
        description=f"{table.title}: ours beside the paper's. Reads results only, never trains.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_plan_arguments(parser)
    add_table_arguments(parser)
    args = parser.parse_args(argv)

    def print_and_write(plan: Plan) -> None:
        report = report_table(table, plan, args.targets, args.seeds)
        report.write(args.out)
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
    commands = tuple(exact_command(step) for step in missing_steps(plan, absent))
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
    """Which runs a table has read: those of other options are as good as missing."""
    by_stage = [f"{stage}: {shlex.join(words)}" for stage, words in plan.stage_options.items()]
    options = "; ".join([*([shlex.join(plan.options)] if plan.options else []), *by_stage])
    return (
        f"Read were the newest finished runs in {plan.checkpoints} with seed "
        f"{', '.join(map(str, seeds))}, holdout {plan.holdout:g} and "
        f"{f'the options {options}' if options else 'the default options'}; other runs are not "
        "counted."
    )


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the results are, and what they were trained with."""
    add, plan = parser.add_argument, Plan()
    add("--centers", type=Path, default=plan.centers, help="the file that lists the centers")
    add("--checkpoints", type=Path, default=plan.checkpoints, help="where run folders are")
    add("--cache", type=Path, default=plan.cache, help="where prepared cases are kept")
    add(
        "--holdout",
        type=float,
        default=plan.holdout,
        help="part of each source center's patients that the runs hold out for protocol honest",
    )
    add(
        "--options",
        default="",
        metavar="'ARGUMENTS'",
        help="what the train scripts were given beyond that, as one word: '--width 8 --lr 3e-3'; "
        "with = where it is a single one: --options=--mirror-axes",
    )
    add(
        "--stage-options",
        action="append",
        default=[],
        metavar="STAGE='ARGUMENTS'",
        help="what one stage's train script was given; may be repeated",
    )


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """What to show, and where to write it."""
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[SEED], help="a case's values are their mean")
    add("--targets", nargs="+", help="centers to show; none: all with lesions")
    add("--out", type=Path, default=Path("reproduced"), help="folder to write to")


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that `add_plan_arguments` describes; exits with a message for an unknown stage."""
    stage_options = {}
    for text in args.stage_options:
        stage, equals, words = text.partition("=")
        if not equals or stage not in STAGE_NAMES:
            raise SystemExit(
                f"error: --stage-options {text}: expected STAGE='ARGUMENTS', with a stage of "
                f"{', '.join(STAGE_NAMES)}"
            )
        stage_options[stage] = tuple(shlex.split(words))
    return Plan(
        args.centers,
        args.checkpoints,
        args.cache,
        args.holdout,
        tuple(shlex.split(args.options)),
        stage_options,
    )
