"""The scripts of Tables II to VI: their arguments, and reading, printing and writing a table."""

from __future__ import annotations

import argparse
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
from reproduce.experiments.cells import SEED, lesion_centers
from reproduce.experiments.finished import missing_steps
from reproduce.experiments.plan import Plan
from reproduce.experiments.plan_arguments import (
    add_experiment_argument,
    add_plan_arguments,
    plan_of,
)
from reproduce.experiments.presets import PRESETS
from utils.arguments import Seed
from utils.files import read_json
from utils.scripts import ArgumentParser, run_script


def run_table(table: Table, argv: Sequence[str] | None = None) -> None:
    """Print a table and write it as Markdown, CSV and LaTeX; nothing is trained.

    What the user can fix (an unknown center, a broken file) ends it with a message and status 2.
    """
    parser = ArgumentParser(
        description=f"{table.title}: ours beside the paper's. Reads results only, never trains."
    )
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add_table_arguments(parser)

    def print_and_write(args: argparse.Namespace) -> None:
        if args.results is None:
            plan = plan_of(args)
            seeds = args.seeds or PRESETS[plan.preset].seeds
            report = report_table(table, plan, args.targets, seeds)
        else:
            report = report_results(table, args.results, args.targets, args.seeds)
        report.write(args.out or args.experiment)
        print(report.markdown)

    run_script(print_and_write, parser.parse_args(argv))


def read_asked(table: Table, args: argparse.Namespace) -> tuple[Rows, Keys, str]:
    """What the command line asks for: rows, the keys of a table's places, and where they are from.

    `args`: of `add_experiment_argument`, `add_plan_arguments` and `add_table_arguments`. Raises
    ValueError for unknown targets or seeds.
    """
    if args.results is not None:
        return read_exported(table, args.results, args.targets, args.seeds)
    plan = plan_of(args)
    seeds = args.seeds or PRESETS[plan.preset].seeds
    rows, keys = read_plan(table, plan, args.targets, seeds)
    return rows, keys, describe_plan(plan, seeds)


def read_plan(
    table: Table, plan: Plan, targets: Sequence[str] | None, seeds: Sequence[int]
) -> tuple[Rows, Keys]:
    """The results of a plan that a table shows, and the keys of its places.

    `targets`: the centers to show (None: all with lesions). Raises ValueError for an unknown one.
    """
    centers = load_centers(plan.centers)
    shown = lesion_centers(centers) if targets is None else targets
    _refuse_unknown(targets, tuple(centers), str(plan.centers))
    keys = table_keys(table, shown, seeds, thresholds_of(table, plan.holdout))
    read = [key for of_seeds in keys.values() for key in of_seeds]
    costs = table.extra is not None
    rows = collect_rows(plan, centers, with_earlier(read) if costs else read, networks=costs)
    return rows, keys


def read_exported(
    table: Table, folder: Path, targets: Sequence[str] | None, seeds: Sequence[int] | None
) -> tuple[Rows, Keys, str]:
    """The exported results that a table shows, the keys of its places, and where they are from.

    `targets`, `seeds`: what to show (None: all that there is). Raises ValueError for unknown ones.
    """
    rows = read_results(folder)
    _refuse_unknown(targets, rows.centers, str(folder))
    _refuse_unknown(seeds, rows.seeds, str(folder))
    facts = read_json(folder / EXPERIMENT, "export the results again")
    keys = keys_of_results(table, rows, targets, seeds)
    if table.baseline is None and seeds is None:  # no row is compared, so each has its own
        keys = keys_of_own_seeds(table, rows, targets)
    return rows, keys, describe_results(folder, facts)


def report_table(
    table: Table, plan: Plan, targets: Sequence[str] | None = None, seeds: Sequence[int] = (SEED,)
) -> Report:
    """The report of a plan's results, with the commands that fill what is missing.

    `targets`: the centers to show (None: all with lesions). Raises ValueError for an unknown one.
    """
    rows, keys = read_plan(table, plan, targets, seeds)
    return with_commands(make_report(table, rows, keys), plan, seeds)


def with_commands(report: Report, plan: Plan, seeds: Sequence[int]) -> Report:
    """A report, with the commands that fill what is missing and what was read."""
    centers = load_centers(plan.centers)
    absent = [cell_of(centers, key) for of_seeds in report.missing.values() for key in of_seeds]
    commands = tuple(step.command for step in missing_steps(plan, absent))
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
    rows, keys, source = read_exported(table, folder, targets, seeds)
    report = make_report(table, rows, keys)
    return replace(report, notes=(*report.notes, source))


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


def keys_of_own_seeds(
    table: Table,
    rows: Rows,
    targets: Sequence[str] | None = None,
    baseline: str | None = None,
) -> Keys:
    """`keys_of_results`, of each row the seeds that it has been trained with for every target.

    Of these only the seeds of the row `baseline`, where it shares any. A row without a seed has
    the keys of all seeds, so that what is missing is named.
    """
    every = keys_of_results(table, rows, targets)
    seeds: dict[tuple[str, str], set[int]] = {}
    for place, of_seeds in every.items():
        there = {key.seed for key in of_seeds if rows.select(key) is not None}
        seeds[place[:2]] = seeds.get(place[:2], there) & there
    bases = {threshold: seeds.get((threshold, str(baseline)), set()) for threshold, _ in seeds}
    own = {place: found & bases[place[0]] or found for place, found in seeds.items()}
    return {
        place: tuple(key for key in of_seeds if key.seed in own[place[:2]]) or of_seeds
        for place, of_seeds in every.items()
    }


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
    text = "exported cases, such as results/benchmark, instead of an experiment's runs"
    add("--results", type=Path, metavar="DIR", help=text)
    add(
        "--seeds",
        type=Seed,
        nargs="+",
        help="trainings to read (default: the preset's, or all)",
    )
    add("--targets", nargs="+", help="centers to show; none: all with lesions")
    add("--out", type=Path, help="folder to write to (default: the experiment's)")
