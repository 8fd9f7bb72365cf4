"""What `reproduce/run.py` is asked for, and the cells that this needs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.case import Center
from data.centers import load_centers
from data.phantom.centers import CENTERS
from reproduce.analysis.collect import table_cells
from reproduce.analysis.paper_tables import (
    COARSE,
    ROW_METHODS,
    TABLE5_METHODS,
    TABLES,
    TRIALS,
    before_fine,
)
from reproduce.analysis.tables import Table, thresholds_of
from reproduce.experiments.cells import Cell, choose_targets, make_cell
from reproduce.experiments.plan import Plan
from reproduce.experiments.plan_arguments import (
    DEFAULT_OUT,
    add_plan_arguments,
    given_settings,
    make_plan,
)
from reproduce.experiments.presets import PRESETS, Phantoms
from utils.arguments import Count, Seed, real
from utils.config import DEFAULT_METHOD
from utils.scripts import ArgumentParser
from utils.settings import POSITIVE, PROBABILITY
from utils.stages import STAGE_NAMES

FIGURES, ALL, BENCHMARK, DEMO = "figures", "all", "benchmark", "demo"
TRIAL = "trial"
# These draw their own synthetic centers.
OWN_PRESET = {BENCHMARK: "small", DEMO: "demo", TRIAL: "small"}
HAVE_ROWS = ("table5", "table6", BENCHMARK, TRIAL)  # what compares methods, row by row
LOCAL = "local"


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    what: str
    plan: Plan
    out: Path = DEFAULT_OUT
    phantoms: Phantoms | None = None  # to draw first; None: the user's centers
    devices: tuple[str, ...] = ("auto",)
    seeds: tuple[int, ...] = (2022,)
    targets: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None  # of Tables V and VI; None: all of the table's
    minutes: float | None = None
    dry_run: bool = False
    executor: str = LOCAL  # of Snakemake
    jobs: int = 1
    profile: Path | None = None
    stage: str | None = None  # the one of a trial, the last one of a benchmark
    command: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float | None:
        """Until `minutes` are over, from the start of the script on; None: no limit."""
        if self.minutes is None:
            return None
        return max(60 * self.minutes - (time.monotonic() - self.started), 0.0)

    @property
    def trial_stage(self) -> str:
        """The stage that a trial compares settings of."""
        return self.stage or COARSE

    @property
    def tables(self) -> list[Table]:
        """The tables to fill."""
        if self.what == BENCHMARK:  # Table VI too where one of its own rows is asked for
            beyond = set(self.rows or ()) - set(TABLE5_METHODS)
            tables = [TABLES["table5"], *([TABLES["table6"]] if beyond else [])]
            return [before_fine(t) for t in tables] if self.stage == COARSE else tables
        if self.what == DEMO:
            return [TABLES["table2"], TABLES["table3"]]
        if self.what == TRIAL:
            return [TRIALS[self.trial_stage]]
        return [table for name, table in TABLES.items() if self.what in (name, ALL)]

    @property
    def figures(self) -> bool:
        """Whether the figures are drawn."""
        return self.what in (FIGURES, ALL)


def parse_request(description: str | None, argv: Sequence[str] | None = None) -> Request:
    """Command line -> `Request`; exits with a message where it cannot be done."""
    parser = ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--what", required=True, choices=(*TABLES, FIGURES, ALL, *OWN_PRESET))
    add("--devices", nargs="+", default=["auto"], help="a process each: cuda:0 cuda:1, or cpu")
    add(
        "--minutes",
        type=real(POSITIVE),
        help="save and end after so long; the same command resumes",
    )
    add("--seeds", type=Seed, nargs="+", help="default: the preset's")
    add(
        "--phantom-seed",
        type=Seed,
        help="draws other synthetic centers; default: the preset's",
    )
    text = (
        "share of the synthetic cases that have no lesion, for reproduce/detection.py; default: 0"
    )
    add("--lesion-free", type=real(PROBABILITY), metavar="PROBABILITY", help=text)
    text = "of a trial (default: tumor_coarse); the last one of a benchmark (default: tumor_fine)"
    add("--stage", choices=tuple(TRIALS), help=text)
    add("--targets", nargs="+", help="centers to test on; default: all with lesions")
    text = (
        "to fill, of Table V or VI, or beside it; default: the table's, of the benchmark Table V's"
    )
    add("--rows", nargs="+", choices=tuple(ROW_METHODS), metavar="ROW", help=text)
    add("--out", type=Path, default=DEFAULT_OUT, help="the experiment: its tables, logs, timestamp")
    add("--dry-run", action="store_true", help="print the steps and what they cost, no more")
    add("--executor", default=LOCAL, help="of Snakemake: slurm takes the steps to a cluster")
    add("--jobs", type=Count, help="of the executor: how many at once")
    add("--profile", type=Path, help="folder of a Snakemake profile: options of the executor")
    add_plan_arguments(parser)
    args = parser.parse_args(argv)
    _check(parser, args)
    try:
        plan = plan_for(args.what, args.out, given_settings(args))
    except ValueError as error:
        parser.error(str(error))
    preset = PRESETS[plan.preset]
    phantoms = preset.phantoms if args.what in OWN_PRESET else None
    if args.what in OWN_PRESET and phantoms is None:
        parser.error(f"--preset {plan.preset}: has no synthetic centers; choose small or full")
    for name, value in (("seed", args.phantom_seed), ("lesion_free", args.lesion_free)):
        if value is not None:
            if phantoms is None:
                option = "--phantom-seed" if name == "seed" else "--lesion-free"
                parser.error(f"{option}: only for {', '.join(OWN_PRESET)}")
            phantoms = replace(phantoms, **{name: value})
    if phantoms is not None:
        _check_before_drawing(parser, args.targets or (), plan, phantoms)
    return Request(
        what=args.what,
        plan=plan,
        out=args.out,
        phantoms=phantoms,
        devices=tuple(args.devices),
        seeds=preset.seeds if args.seeds is None else tuple(args.seeds),
        targets=None if args.targets is None else tuple(args.targets),
        rows=None if args.rows is None else tuple(args.rows),
        minutes=args.minutes,
        dry_run=args.dry_run,
        executor=args.executor,
        jobs=args.jobs or 1,
        profile=args.profile,
        stage=args.stage,
        command="python reproduce/run.py " + shlex.join(sys.argv[1:] if argv is None else argv),
    )


def _check_before_drawing(
    parser: argparse.ArgumentParser, targets: Sequence[str], plan: Plan, phantoms: Phantoms
) -> None:
    """Exit with a message for what else would be noticed when all centers are drawn."""
    with_lesions = [n for n in phantoms.centers if CENTERS[n].lesions is not None]
    for name in targets:
        if name not in with_lesions:
            parser.error(f"--targets {name}: choose from {', '.join(with_lesions)}")
    for stage in STAGE_NAMES if plan.options else plan.stage_options:
        plan.config(stage, DEFAULT_METHOD)
    for method in plan.method_options:
        plan.config(STAGE_NAMES[-1], method)


def plan_for(what: str, out: Path, given: Mapping[str, Any]) -> Plan:
    """The plan of an experiment in `out`; of what draws its own centers, all of it lies there."""
    if what not in OWN_PRESET:
        return make_plan(out, given)
    own = {"centers": out / "centers" / "centers.toml"}
    defaults = {name: out / name for name in ("checkpoints", "cache")}
    return make_plan(out, {**given, **own}, {"preset": OWN_PRESET[what], **defaults})


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with a message where an argument can have no meaning, whatever the preset."""
    on_cluster = args.executor != LOCAL
    for wrong, message in (
        (
            int(os.environ.get("WORLD_SIZE", 1)) > 1,
            "starts its own processes, see --devices; start it without torchrun",
        ),
        (
            args.rows is not None and args.what not in HAVE_ROWS,
            f"--rows: only for {', '.join(HAVE_ROWS)}",
        ),
        (
            args.stage is not None and args.what not in (BENCHMARK, TRIAL),
            f"--stage: only for {BENCHMARK}, {TRIAL}",
        ),
        (args.jobs is not None and not on_cluster, "--jobs: only with --executor, see --devices"),
        (
            on_cluster and len(args.devices) > 1,
            f"--devices {' '.join(args.devices)}: one for each job of --executor {args.executor}",
        ),
    ):
        if wrong:
            parser.error(message)


def collect_cells(request: Request) -> list[Cell]:
    """The cells of everything that is asked for, each once. Raises ValueError for no center.

    One seed after the other: where the time ends, the first of them have all their cells.
    """
    centers = load_centers(request.plan.centers)
    targets = choose_targets(centers, request.targets, request.plan.centers)
    cells = [
        cell
        for table in reversed(request.tables)  # the tumor's trainings are long: they begin first
        for of_seeds in table_cells(
            table,
            centers,
            targets,
            request.seeds,
            thresholds_of(table, request.plan.holdout),
        ).values()
        for cell in of_seeds
    ]
    if request.figures:
        for target in targets:
            cells += figure_cells(centers, target, request.seeds[0])
    if request.rows is not None:
        methods = [ROW_METHODS[row] for row in request.rows]
        cells = [cell for cell in cells if cell.method in methods]
    return sorted(dict.fromkeys(cells), key=lambda cell: request.seeds.index(cell.seed))


def figure_cells(centers: Mapping[str, Center], target: str, seed: int) -> list[Cell]:
    """What Figs. 5 to 8 draw of a center: all stages, Table V's rows, four folds."""
    return [
        make_cell(centers, "pancreas_fine", target, seed=seed),
        make_cell(centers, "tumor_coarse", target, seed=seed),
        *(
            make_cell(centers, "tumor_fine", target, method=m, seed=seed)
            for m in TABLE5_METHODS.values()
        ),
        make_cell(centers, "tumor_fine", target, folds=True, seed=seed),
    ]
