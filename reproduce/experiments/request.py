"""What `reproduce/run.py` is asked for, and the cells that this needs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Center
from data.centers import load_centers
from reproduce.analysis.collect import table_cells
from reproduce.analysis.paper_tables import TABLES
from reproduce.analysis.run_table import add_plan_arguments, plan_of
from reproduce.analysis.tables import Table, thresholds_of
from reproduce.experiments.cells import Cell, Plan, choose_targets, make_cell
from reproduce.experiments.presets import PRESETS, Phantoms, Preset
from utils.stages import VARIANTS

FIGURES, ALL, BENCHMARK, DEMO = "figures", "all", "benchmark", "demo"
OWN_PRESET = {BENCHMARK: "small", DEMO: "demo"}  # these two draw their own synthetic centers
HAVE_ROWS = ("table5", BENCHMARK)  # what is the method's variants, row by row


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    what: str
    preset: Preset
    plan: Plan
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: tuple[str, ...] | None
    rows: tuple[str, ...] | None  # of Table V; None: all
    out: Path
    minutes: float | None
    dry_run: bool
    command: str
    started: float

    @property
    def seconds_left(self) -> float | None:
        """Until `minutes` are over, from the start of the script on; None: no limit."""
        if self.minutes is None:
            return None
        return max(60 * self.minutes - (time.monotonic() - self.started), 0.0)

    @property
    def tables(self) -> list[Table]:
        """The tables to fill."""
        if self.what == BENCHMARK:
            return [TABLES["table5"]]
        if self.what == DEMO:
            return [TABLES["table2"], TABLES["table3"]]
        return [table for name, table in TABLES.items() if self.what in (name, ALL)]

    @property
    def phantoms(self) -> Phantoms | None:
        """The synthetic centers to draw first; None where the user's are taken."""
        return self.preset.phantoms if self.what in OWN_PRESET else None

    @property
    def figures(self) -> bool:
        """Whether the figures are drawn."""
        return self.what in (FIGURES, ALL)


def parse_request(description: str | None, argv: Sequence[str] | None = None) -> Request:
    """Command line -> `Request`; exits with a message where it cannot be done."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--what", required=True, choices=(*TABLES, FIGURES, ALL, *OWN_PRESET))
    sizes = "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items())
    own = ", ".join(f"for the {what} {name}" for what, name in OWN_PRESET.items())
    add("--preset", choices=tuple(PRESETS), help=f"default: paper, {own}. {sizes}")
    add("--devices", nargs="+", default=["auto"], help="a process each: cuda:0 cuda:1, or cpu")
    add("--minutes", type=float, help="save and end after so long; the same command goes on")
    add("--seeds", type=int, nargs="+", help="default: the preset's")
    add("--phantom-seed", type=int, help="draws other synthetic centers; default: the preset's")
    add("--targets", nargs="+", help="centers to test on; default: all with lesions")
    add("--rows", nargs="+", choices=VARIANTS, help="of Table V, to fill; default: all")
    add("--out", type=Path, default=Path("reproduced"), help="tables, logs; benchmark, demo: all")
    add("--dry-run", action="store_true", help="print the steps and what they cost, no more")
    add_plan_arguments(parser)
    parser.set_defaults(checkpoints=None, cache=None, holdout=None)
    args = parser.parse_args(argv)
    _check(parser, args)
    synthetic = args.what in OWN_PRESET
    preset = PRESETS[args.preset or OWN_PRESET.get(args.what, "paper")]
    if synthetic and preset.phantoms is None:
        parser.error(f"--preset {args.preset}: has no synthetic centers; choose small or full")
    if args.phantom_seed is not None:
        if preset.phantoms is None or not synthetic:
            parser.error(f"--phantom-seed: only for {' and '.join(OWN_PRESET)}")
        preset = replace(preset, phantoms=replace(preset.phantoms, seed=args.phantom_seed))
    if args.holdout is None:
        args.holdout = preset.holdout
    for name in ("checkpoints", "cache"):
        if getattr(args, name) is None:
            setattr(args, name, args.out / name if synthetic else Path(name))
    if synthetic:
        args.centers = args.out / "centers" / "centers.toml"
    return Request(
        what=args.what,
        preset=preset,
        plan=with_preset(plan_of(args), preset),
        devices=tuple(args.devices),
        seeds=preset.seeds if args.seeds is None else tuple(args.seeds),
        targets=None if args.targets is None else tuple(args.targets),
        rows=None if args.rows is None else tuple(args.rows),
        out=args.out,
        minutes=args.minutes,
        dry_run=args.dry_run,
        command="python reproduce/run.py " + shlex.join(sys.argv[1:] if argv is None else argv),
        started=time.monotonic(),
    )


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with a message where an argument can have no meaning, whatever the preset."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        parser.error("starts its own processes, see --devices; start it without torchrun")
    if args.rows is not None and args.what not in HAVE_ROWS:
        parser.error(f"--rows: only for {' and '.join(HAVE_ROWS)}")
    if args.minutes is not None and args.minutes <= 0:
        parser.error(f"--minutes {args.minutes:g}: above 0")


def with_preset(plan: Plan, preset: Preset) -> Plan:
    """The plan with the preset's arguments in front of its own, which count where both stand."""
    stages = {*preset.stage_options, *plan.stage_options}
    return replace(
        plan,
        options=(*preset.options, *plan.options),
        stage_options={
            name: (*preset.stage_options.get(name, ()), *plan.stage_options.get(name, ()))
            for name in sorted(stages)
        },
    )


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
        cells = [cell for cell in cells if cell.variant in request.rows]
    return sorted(dict.fromkeys(cells), key=lambda cell: request.seeds.index(cell.seed))


def figure_cells(centers: Mapping[str, Center], target: str, seed: int) -> list[Cell]:
    """What Figs. 5 to 8 draw of a center: all stages, Table V's rows, four folds."""
    return [
        make_cell(centers, "pancreas_fine", target, seed=seed),
        make_cell(centers, "tumor_coarse", target, seed=seed),
        *(make_cell(centers, "tumor_fine", target, variant=v, seed=seed) for v in VARIANTS),
        make_cell(centers, "tumor_fine", target, folds=True, seed=seed),
    ]
