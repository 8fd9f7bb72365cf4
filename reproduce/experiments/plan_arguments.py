"""The arguments that say which experiment is meant, and with which settings."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from methods import method_names
from reproduce.experiments.plan import Plan, note_experiment, read_experiment
from reproduce.experiments.presets import PRESETS
from utils.arguments import real, timestamp
from utils.commands import default_path
from utils.settings import Range
from utils.stages import STAGE_NAMES

DEFAULT_OUT = default_path("reproduced")
WORDS = "what {} train script{} given beyond the preset, as one word"


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the results are, and what they are trained with. What is not given stays None."""
    add, plan = parser.add_argument, Plan()
    add("--centers", type=Path, help=f"the file that lists the centers (default: {plan.centers})")
    add("--checkpoints", type=Path, help=f"where run folders are (default: {plan.checkpoints})")
    add("--cache", type=Path, help=f"where prepared cases are kept (default: {plan.cache})")
    sizes = "; ".join(f"{name}: {preset.text}" for name, preset in PRESETS.items())
    add("--preset", choices=tuple(PRESETS), help=f"how large (default: paper). {sizes}")
    add(
        "--holdout",
        type=real(Range(least=0, below=1)),
        help="part of each source center's patients that is held out to choose a threshold on "
        "(default: the preset's)",
    )
    add(
        "--options",
        metavar="'ARGUMENTS'",
        help=f"{WORDS.format('every', ' is')}: '--width 8 --lr 3e-3'; "
        "with = where it is a single one: --options=--mirror-axes",
    )
    text = WORDS.format("one stage's", " is")
    add("--stage-options", action="append", metavar="STAGE='ARGUMENTS'", help=f"{text}; repeatable")
    text = "what the train scripts are given for one method; repeatable"
    add("--method-options", action="append", metavar="METHOD='ARGUMENTS'", help=text)


def add_experiment_argument(parser: argparse.ArgumentParser) -> None:
    """Whose results are read, for scripts that train nothing."""
    text = "--out of reproduce/run.py; its settings hold where none are given here (default: "
    parser.add_argument(
        "--experiment", type=Path, default=DEFAULT_OUT, help=f"{text}{DEFAULT_OUT})"
    )
    parser.add_argument(
        "--time", type=timestamp, help="timestamp of the run folders (default: the experiment's)"
    )


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_plan_arguments` has read, typed, without what was not given."""
    given = {name: getattr(args, name, None) for name in ("preset", "holdout", "time")}
    for name in ("centers", "checkpoints", "cache"):  # noted, and read from other folders later
        path = getattr(args, name, None)
        given[name] = None if path is None else path.absolute()
    if args.options is not None:
        given["options"] = tuple(shlex.split(args.options))
    for name, choices in (("stage_options", STAGE_NAMES), ("method_options", method_names())):
        if getattr(args, name) is not None:
            given[name] = dict(_pair(name, text, choices) for text in getattr(args, name))
    return {name: value for name, value in given.items() if value is not None}


def make_plan(
    experiment: Path, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Plan:
    """The plan of an experiment: what is given, else what it had, else the defaults.

    Raises ValueError where its note cannot be read.
    """
    before = read_experiment(experiment)
    plan = replace(before or Plan(**(defaults or {})), **given)
    if "holdout" not in given and (before is None or before.preset != plan.preset):
        plan = replace(plan, holdout=PRESETS[plan.preset].holdout)
    return plan


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan of the experiment that is read; exits with a message where there is none such.

    Where nothing has begun it, it begins here: the commands that fill its cells name its runs.
    """
    try:
        plan = make_plan(args.experiment, given_settings(args))
        if args.time is None and read_experiment(args.experiment) is None:
            note_experiment(args.experiment, plan)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    return plan


def _pair(name: str, text: str, choices: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    key, equals, words = text.partition("=")
    if not equals or key not in choices:
        kind = name.partition("_")[0]
        raise SystemExit(
            f"error: --{kind}-options {text}: expected {kind.upper()}='ARGUMENTS', with a {kind} "
            f"of {', '.join(choices)}"
        )
    return key, tuple(shlex.split(words))
