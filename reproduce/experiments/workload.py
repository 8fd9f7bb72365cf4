"""What is left of each step, and what that costs at a measured speed: device hours, wall hours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from data.case import Center
from data.centers import load_centers
from data.splits import Split
from engine.case_metrics import read_cases
from engine.checkpointing import load_checkpoint
from engine.command_line import parse_config, parse_evaluation
from engine.results import result_folder
from engine.run_folders import Run, config_hash, find_runs
from engine.split_selection import select_splits
from engine.training import total_steps
from reproduce.experiments.cells import Plan, Step, trainings_of
from reproduce.experiments.estimate import Speed, model_key
from reproduce.workflow.tasks import PREPARE, TRAIN, Task
from utils.commands import to_arguments
from utils.config import Config
from utils.device import select_device, select_precision
from utils.stages import stage_named

NAMING = ("--target", "--fold", "--method", "--variant", "--roi-source", "--protocol", "--seed")


@dataclass(frozen=True)
class Load:
    """What is left of a step: `count` training steps or cases of the model `key`."""

    kind: str
    key: str
    title: str
    config: Config
    count: int

    def seconds(self, speeds: Mapping[str, Speed]) -> float | None:
        """The time of it on one device; None where its speed was not measured."""
        speed = speeds.get(self.key, Speed())
        each = speed.step_s if self.kind == TRAIN else speed.case_s
        return None if each is None else self.count * each


def loads_of(plan: Plan, steps: Iterable[Step], device: str) -> dict[Step, Load]:
    """What is left of each step: of an unfinished training the steps behind its checkpoint.

    A case without a lesion is counted, though a tumor stage does not train on it.
    """
    centers = load_centers(plan.centers)
    precision = select_precision("auto", select_device(device))
    loads = {}
    for step in steps:
        train = step if step.kind == TRAIN else step.needs[0]
        config = parse_config(stage_named(step.stage), train.argv)
        if config.precision == "auto":
            config = replace(config, precision=precision)
        split = select_splits(config, centers)[0]
        runs = find_runs(
            config.checkpoints,
            config.stage.name,
            config_hash=config_hash(config),
            split_hash=split.hash,
        )
        if step.kind == TRAIN:
            count = total_steps(config, len(split.train_cases), 1) - saved_steps(runs)
        else:
            count = cases_left(step, split, centers, runs)
        title = f"{step.kind} {config.stage.name} {config.stage.variant}"
        loads[step] = Load(step.kind, model_key(config), title, config, max(count, 0))
    return loads


def saved_steps(runs: Sequence[Run]) -> int:
    """The step of the checkpoint that a training goes on from; 0 where it begins."""
    for run in runs:
        if not run.done:
            return int(load_checkpoint(run.checkpoint)["step"]) if run.checkpoint.is_file() else 0
    return 0


def cases_left(step: Step, split: Split, centers: Mapping[str, Center], runs: Sequence[Run]) -> int:
    """How many cases an evaluation has still to predict."""
    asked = parse_evaluation(stage_named(step.stage), step.argv)
    heldout = asked.protocol == "heldout"
    cases = split.heldout_cases if heldout else split.test_cases
    left = len(cases)
    for run in (run for run in runs if run.done):
        for name in {center for center, _ in cases}:
            folder = result_folder(run, step.stage, name, asked.roi_source, asked.protocol)
            left -= len(read_cases(folder / "cases.csv"))
        break
    return left


def tasks_of(plan: Plan, loads: Mapping[Step, Load]) -> list[Task]:
    """The steps as tasks of the scheduler, behind those that fill the cache for all of them."""
    spacings: dict[tuple[float, ...], dict[str, None]] = {}
    for load in loads.values():
        names = spacings.setdefault(load.config.spacing, {})
        names.update(dict.fromkeys((*load.config.sources, load.config.target or "")))
    prepare = []
    for spacing, names in spacings.items():
        options = {"centers": plan.centers, "only": tuple(names), "cache": plan.cache}
        argv = to_arguments({**options, "spacing": spacing})
        name = f"{PREPARE}_{'x'.join(f'{length:g}' for length in spacing)}"
        prepare.append(Task(name, PREPARE, "", argv, "reproduce/prepare.py"))
    first = [task.name for task in prepare]
    names_of = {step: step_name(step) for step in loads}
    tasks = []
    for step, name in names_of.items():
        needs = (*first, *(names_of[other] for other in step.needs if other in names_of))
        trained = () if step.kind == TRAIN else trainings_of(step)
        argvs = tuple((train.stage, train.argv) for train in trained)
        tasks.append(Task(name, step.kind, step.stage, step.argv, step.script, needs, argvs))
    return prepare + tasks


def step_name(step: Step) -> str:
    """The step's name and that of its log: what it is, and a hash of its command.

    >>> step_name(Step("train", "tumor_fine", ("--target", "C", "--variant", "BL", "--seed", "7")))
    'train_tumor_fine_C_BL_7_6b8ad4'
    """
    named = dict(pairwise(step.argv))
    parts = [named[option] for option in NAMING if option in named]
    digest = hashlib.sha256(" ".join((step.kind, step.stage, *step.argv)).encode()).hexdigest()
    return "_".join([step.kind, step.stage, *parts, digest[:6]])


def plan_wall(
    seconds: Mapping[str, float], needs: Mapping[str, Sequence[str]], devices: int
) -> float:
    """Seconds until the last task ends, when each device takes the next task as it gets free.

    `seconds`: by task, in order; `needs`: the tasks that must have ended before one begins.
    """
    waiting, ends, free = dict(seconds), dict[str, float](), [0.0] * devices
    while waiting:
        ready = {
            name: max((ends[other] for other in needs.get(name, ())), default=0.0)
            for name in waiting
            if all(other in ends for other in needs.get(name, ()))
        }
        device = int(np.argmin(free))
        name = min(ready, key=lambda n: max(ready[n], free[device]))  # the first of the earliest
        ends[name] = free[device] = max(ready[name], free[device]) + waiting.pop(name)
    return max(ends.values(), default=0.0)


def describe_loads(
    loads: Iterable[Load], speeds: Mapping[str, Speed], wall_s: float, devices: Sequence[str]
) -> str:
    """A line for each kind of step, and the sum in hours of a device and of the clock."""
    groups: dict[str, list[Load]] = {}
    for load in loads:
        groups.setdefault(load.title, []).append(load)
    lines = [f"{'what':40} {'runs':>5} {'left':>10} {'s each':>8} {'device hours':>13}"]
    total, unknown = 0.0, []
    for title, group in groups.items():
        count = sum(load.count for load in group)
        taken = [load.seconds(speeds) for load in group]
        known = [s for s in taken if s is not None]
        if len(known) < len(taken):
            unknown.append(title)
        total += sum(known)
        each = f"{sum(known) / count:.3g}" if known and count else "?"
        unit = "steps" if group[0].kind == TRAIN else "cases"
        lines.append(
            f"{title:40} {len(group):5} {count:6} {unit[:5]} {each:>6} {sum(known) / 3600:13.3g}"
        )
    lines.append(
        f"expected: {total / 3600:.3g} device hours, {wall_s / 3600:.3g} hours on "
        f"{' '.join(devices)} (measured steps times what is left; an estimate)"
    )
    if unknown:
        lines.append(f"not in it, for want of a measurement: {', '.join(unknown)}")
    return "\n".join(lines)
