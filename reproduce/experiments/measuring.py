"""What the scripts share that measure cases into results/NAME, and show what is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from reproduce.analysis.paper_tables import EVERY_ROW, ROW_METHODS
from reproduce.experiments.plan import Plan
from reproduce.experiments.plan_arguments import add_experiment_argument, add_plan_arguments
from reproduce.experiments.presets import PRESETS
from utils.arguments import Count, Seed
from utils.scripts import ArgumentParser, run_script

Compute = Callable[[argparse.Namespace, Sequence[str]], None]  # its arguments, and its words
Show = Callable[[Path, argparse.Namespace], None]  # results/NAME, its arguments


def measuring_parser(
    doc: str | None, stages: Sequence[str], stage: str, cases: str
) -> ArgumentParser:
    """The options of such a script; `stage`: the default one, `cases`: which --cases takes."""
    parser = ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_experiment_argument(parser)
    add_plan_arguments(parser)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="results/NAME, where cases are written")
    add("--results", type=Path, metavar="DIR", help="results/NAME to show; nothing is measured")
    add("--rows", nargs="+", choices=tuple(ROW_METHODS), metavar="ROW", help="default: all trained")
    add("--targets", nargs="+", metavar="CENTER", help="default: all with lesions")
    add("--seeds", type=Seed, nargs="+", help="default: the preset's")
    add("--stage", choices=stages, default=stage, help=f"default: {stage}")
    add("--cases", type=Count, metavar="N", help=f"{cases}; default: all")
    add("--device", default="auto", help="to predict on (default: auto)")
    text = "for the table and the picture (default: the experiment's folder)"
    add("--tables", type=Path, metavar="DIR", help=text)
    return parser


def run_measuring(
    parser: ArgumentParser, argv: Sequence[str] | None, compute: Compute, show: Show
) -> None:
    """With --out measure what is missing, then show all; with --results only show."""
    args = parser.parse_args(argv)
    if (args.out is None) == (args.results is None):
        parser.error("give --out to measure, or --results to show what is there")
    words = sys.argv[1:] if argv is None else argv

    def run(asked: argparse.Namespace) -> None:
        if asked.results is None:
            compute(asked, words)
        show(asked.results or asked.out, asked)

    run_script(run, args)


def asked_rows(args: argparse.Namespace) -> dict[str, str]:
    """Row -> method, of --rows."""
    return {name: ROW_METHODS[name] for name in args.rows or [row.name for row in EVERY_ROW.rows]}


def asked_seeds(args: argparse.Namespace, plan: Plan) -> tuple[int, ...]:
    """Those of --seeds, else the preset's."""
    return tuple(args.seeds or PRESETS[plan.preset].seeds)
