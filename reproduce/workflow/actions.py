"""What the steps of an experiment do, each in its own process; see run_step.py."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.evaluation import run_stage
from engine.training import fit
from methods import config_from_plain
from reproduce.experiments.cells import EVALUATE, TRAIN, Step, arguments_of
from reproduce.experiments.inputs import Drawing, Preparation, draw, preparations_of, prepare
from reproduce.experiments.presets import Phantoms
from reproduce.experiments.workload import Load
from reproduce.workflow.plan_file import Entry
from utils.commands import script
from utils.config import Config, Evaluation
from utils.settings import from_plain, to_plain


def entries_of(loads: Mapping[Step, Load], label: str) -> tuple[Entry, ...]:
    """The steps, behind those that prepare their cases, for the plan file.

    `label`: of the device, with which the seconds of a step are remembered.
    """
    prepared = preparations_of(loads)
    entries = [input_entry(request, "prepare_cases") for request in set(prepared.values())]
    for step, load in loads.items():
        needs = [need.name for need in step.needs if need in loads]
        facts = {"model": load.key, "field": load.field, "count": load.count, "label": label}
        entries.append(
            Entry(
                name=step.name,
                action=f"{__name__}:{step.kind}",
                request=to_plain(step.request),
                command=step.command,
                needs=(prepared[step].name, *needs),
                facts=facts,
            )
        )
    return tuple(entries)


def input_entry(request: Drawing | Preparation, action: str) -> Entry:
    """The entry of a step that makes what the others read; it takes the whole machine."""
    plain = to_plain(request)
    return Entry(request.name, f"{__name__}:{action}", plain, request.command, alone=True)


def draw_centers(request: Any, device: str) -> None:
    """Draw synthetic centers."""
    draw(Drawing(Path(request["out"]), from_plain(Phantoms, request["phantoms"])))


def prepare_cases(request: Any, device: str) -> None:
    """Fill the cache."""
    prepare(from_plain(Preparation, request))


def train(request: Any, device: str) -> None:
    """Train one run."""
    config = replace(config_from_plain(request), device=device)
    _note_command(TRAIN, config.stage.name, config)
    fit(config)


def evaluate(request: Any, device: str) -> None:
    """Evaluate one run on the cases that are asked for."""
    evaluation = replace(from_plain(Evaluation, request), device=device)
    _note_command(EVALUATE, evaluation.stage, evaluation)
    run_stage(evaluation)


def _note_command(kind: str, stage: str, request: Config | Evaluation) -> None:
    """A run records the command that started it: that of the stage's script."""
    sys.argv = [script(kind, stage), *arguments_of(request)]
