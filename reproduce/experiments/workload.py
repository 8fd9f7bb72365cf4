"""What is left of each step, and what that costs: device hours, wall hours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.case_metrics import read_cases
from engine.checkpointing import load_checkpoint
from engine.results import result_folder
from methods import EXTERNAL, build_external, method_class
from methods.base import ONE_PER_CENTER
from reproduce.experiments.cells import TRAIN, Step
from reproduce.experiments.estimate import Speed, model_key
from reproduce.experiments.finished import Splits, find_run
from utils.config import Config


@dataclass(frozen=True)
class Load:
    """What is left of a step: `count` training steps or cases of the model `key`."""

    kind: str
    key: str
    title: str
    config: Config
    count: int

    @property
    def field(self) -> str:
        """The field of `Speed` that it takes."""
        return "step_s" if self.kind == TRAIN else "case_s"

    def seconds(self, speeds: Mapping[str, Speed]) -> float | None:
        """The time of it on one device; None where its speed is not known."""
        each: float | None = getattr(speeds.get(self.key, Speed()), self.field)
        return None if each is None else self.count * each


def loads_of(steps: Iterable[Step], splits: Splits) -> dict[Step, Load]:
    """What is left of each step: of an unfinished training the steps behind its checkpoint.

    A case without a lesion is counted, though a tumor stage does not train on it.
    """
    loads = {}
    for step in steps:
        config = step.training.config
        count = steps_left(step, splits) if step.kind == TRAIN else cases_left(step, splits)
        title = f"{step.kind} {config.stage.name} {config.method}"
        loads[step] = Load(step.kind, model_key(config), title, config, max(count, 0))
    return loads


def steps_left(step: Step, splits: Splits) -> int:
    """How many optimizer steps a training has still to make, on one device.

    Of an external method: all those of one network, until it is done.
    """
    config = step.config
    if config.method in EXTERNAL:
        return build_external(config).budget()[0]
    split, run = splits.of(config), find_run(step, splits)
    one_each = method_class(config.method).sampling == ONE_PER_CENTER
    per_step = config.accumulate * (len(split.sources) if one_each else 1)
    total = math.ceil(config.stage.epochs * len(split.train_cases) / per_step)
    if run is None or not run.checkpoint.is_file():
        return total
    return total - int(load_checkpoint(run.checkpoint)["step"])


def cases_left(step: Step, splits: Splits) -> int:
    """How many cases an evaluation has still to predict."""
    asked, split = step.evaluation, splits.of(step.training.config)
    cases = split.heldout_cases if asked.cases == "heldout" else split.test_cases
    run = find_run(step, splits)
    if run is None or not run.done:
        return len(cases)
    folders = [
        result_folder(run, step.stage, name, asked) for name in {center for center, _ in cases}
    ]
    return len(cases) - sum(len(read_cases(folder / "cases.csv")) for folder in folders)


def plan_wall(
    seconds: Mapping[str, float], needs: Mapping[str, Sequence[str]], devices: int
) -> float:
    """Seconds until the last step ends, when each device takes the next step as it gets free.

    `seconds`: by step, in order; `needs`: the steps that must have ended before one begins.
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
    loads: Iterable[Load], speeds: Mapping[str, Speed], wall_s: float, devices: str
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
        f"{devices} (seconds of a step times what is left; an estimate)"
    )
    if unknown:
        lines.append(f"not in it, not measured: {', '.join(unknown)}")
    return "\n".join(lines)
