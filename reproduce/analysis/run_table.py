"""The scripts of Tables II to VI: their arguments, and reading, printing and writing a table."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.centers import load_centers
from reproduce.analysis.collect import cell_of, collect_rows, with_earlier
from reproduce.analysis.rows import EXPERIMENT, Rows, read_results
from reproduce.analysis.tables import (
    Keys,
    Report,
    Table,
    make_report,
    table_keys,
    thresholds_of,
)
from reproduce.experiments.cells import SEED, Plan, lesion_centers
from reproduce.experiments.finished import exact_command, missing_steps
from utils.config import run_script
from utils.stages import STAGE_NAMES


def run_table(table: Table, argv: Sequence[str] | None = None) -> None:
    """Print a table and write it as Markdown, CSV and LaTeX; nothing is trained.

    What the user can fix (an unknown center, a broken file) ends it with a message and status 2.
    """
    parser = argparse.ArgumentParser(
        description=f"{table.title}: ours beside the paper's. Reads results only, never trains.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_plan_arguments(parser)
    add_table_arguments(parser)
    args = parser.parse_args(argv)

    def print_and_write(plan: Plan) -> None:
        if args.results is None:
            report = report_table(table, plan, args.targets, args.seeds or (SEED,))
        else:
            report = report_results(table, args.results, args.targets, args.seeds)
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
    shown = lesion_centers(centers) if targets is None else targets
    _refuse_unknown(targets, tuple(centers), str(plan.centers))
    keys = table_keys(table, shown, seeds, thresholds_of(table, plan.holdout))
    read = [key for of_seeds in keys.values() for key in of_seeds]
    costs = table.extra is not None
    rows = collect_rows(plan, centers, with_earlier(read) if costs else read, networks=costs)
    return with_commands(make_report(table, rows, keys), plan, seeds)


def with_commands(report: Report, plan: Plan, seeds: Sequence[int]) -> Report:
    """A report, with the commands that fill what is missing and what was read."""
    centers = load_centers(plan.centers)
    absent = [cell_of(centers, key) for of_seeds in report.missing.values() for key in of_seeds]
    commands = tuple(exact_command(step) for step in missing_steps(plan, absent))
    return replace(report, commands=commands, notes=(*report.notes, describe_plan(plan, seeds)))


def report_results(
    table: Table,
    folder: Path,
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Report:
    """The report of exported results, `results/<experiment>/`; no checkpoint is needed.

    `targets`, `seeds`: what to show (None: all that the experiment has). Raises ValueError for
    unknown ones.
    """
    rows = read_results(folder)
    _refuse_unknown(targets, rows.centers, str(folder))
    _refuse_unknown(seeds, rows.seeds, str(folder))
    keys = keys_of_results(table, rows, targets, seeds)
    report = make_report(table, rows, keys)
    facts = json.loads((folder / EXPERIMENT).read_text(encoding="utf-8"))
    return replace(report, notes=(*report.notes, describe_results(folder, facts)))


def keys_of_results(
    table: Table,
    rows: Rows,
    targets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Keys:
    """What a table shows of exported results: the targets, seeds and thresholds that these have."""
    keys = table_keys(
        table,
        rows.centers if targets is None else targets,
        rows.seeds if seeds is None else seeds,
        table.thresholds,
    )
    there = {
        threshold
        for (threshold, _, _), of_seeds in keys.items()
        if any(rows.select(key) is not None for key in of_seeds)
    } or {table.thresholds[0]}
    return {place: of_seeds for place, of_seeds in keys.items() if place[0] in there}


def describe_results(folder: Path, facts: Mapping[str, Any]) -> str:
    """Which exported results a table has read."""
    last = facts["exports"][-1]
    return (
        f"Read were the exported cases in {folder.name}/, made by {last['command']} (commit "
        f"{last['commit']}, {last['date']})."
    )


def _refuse_unknown(asked: Sequence[Any] | None, there: Sequence[Any], where: str) -> None:
    unknown = [str(value) for value in asked or () if value not in there]
    if unknown:
        raise ValueError(
            f"{' '.join(unknown)}: not in {where}, which has {', '.join(map(str, there))}"
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
        help="part of each source center's patients that the runs hold out",
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
    text = "exported cases, such as results/benchmark; without: the runs in --checkpoints"
    add("--results", type=Path, metavar="DIR", help=text)
    text = f"trainings to read; default: {SEED}, of exported cases all"
    add("--seeds", type=int, nargs="+", help=text)
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
