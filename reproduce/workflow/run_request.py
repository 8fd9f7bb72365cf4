"""Do what `reproduce/run.py` is asked for: draw, plan, say the cost, run the steps, show tables."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from reproduce.analysis.publish import show_results
from reproduce.experiments.cells import TRAIN, Step
from reproduce.experiments.estimate import known_speeds
from reproduce.experiments.finished import Splits, missing_steps, set_aside, stale_folders
from reproduce.experiments.inputs import Drawing
from reproduce.experiments.plan import note_experiment
from reproduce.experiments.request import LOCAL, Request, collect_cells
from reproduce.experiments.workload import Load, describe_loads, loads_of, plan_wall
from reproduce.workflow.actions import entries_of, input_entry
from reproduce.workflow.launch import TIME, Engine, Outcome, run_steps
from reproduce.workflow.plan_file import Entry, PlanFile
from reproduce.workflow.processes import only_one
from utils.device import device_name, select_device
from utils.files import check_folder
from utils.signals import SIGNALS, exit_status

MEASURE_PART = 0.1  # of --minutes: so much goes into measuring, then it does without
EXIT = {"": 0, TIME: 0, **{number.name: exit_status(number) for number in SIGNALS}}
THREADS = "OMP_NUM_THREADS"


def main(request: Request) -> None:
    """Do what is asked; exits with status 1 where a step failed, 143, 130 or 129 after a signal."""
    exit_with(run(request))


def run(request: Request) -> Outcome:
    """Fill what is missing of what is asked for, print and write it; how the steps ended."""
    check_folder("--out", request.out)
    with contextlib.ExitStack() as stack:
        if request.executor == LOCAL:
            stack.enter_context(share_processors(request.devices))
        place = request.out / "centers"
        to_draw = request.phantoms is not None and not request.phantoms.drawn(place)
        if to_draw or not request.dry_run:
            stack.enter_context(only_one(request.out))
        if to_draw:
            assert request.phantoms is not None
            drawing = Drawing(place, request.phantoms)
            outcome = run_entries(request, (input_entry(drawing, "draw_centers"),))
            if outcome.failed or outcome.stopped:
                show_outcome(request, outcome)
                return outcome
        return fill(request)


def fill(request: Request) -> Outcome:
    """Run the steps that are missing, and print and write the tables."""
    splits = Splits(request.plan.centers)
    steps = missing_steps(request.plan, collect_cells(request), splits)
    stale = stale_folders(steps, splits)
    print_steps(request, steps, stale)
    loads = loads_of(steps, splits)
    local = request.executor == LOCAL
    label = step_device(request.devices[0]) if local else request.executor
    entries = entries_of(loads, label)
    estimate(request, loads, entries, label)
    if request.dry_run:
        return Outcome()
    note_experiment(request.out, request.plan)
    for folder in stale:
        print(f"{folder} is now {set_aside(folder)}", flush=True)
    outcome = run_entries(request, entries)
    if outcome.stopped in ("", TIME):  # after a signal there may be seconds left
        show_results(request, figures=not outcome.stopped)
    show_outcome(request, outcome)
    return outcome


def run_entries(request: Request, entries: Sequence[Entry]) -> Outcome:
    """Run the steps on the devices, or on the cluster, until they are done or the time is over."""
    threads = os.environ.get(THREADS)
    plan = PlanFile(
        out=request.out.resolve(),
        folder=Path.cwd(),
        devices=request.devices,
        claims=request.executor == LOCAL,
        threads=None if threads is None else int(threads),
        steps=tuple(entries),
    )
    engine = Engine(
        executor=request.executor,
        jobs=request.jobs,
        profile=request.profile,
        seconds=request.seconds_left,
        say=functools.partial(print, flush=True),
    )
    return run_steps(plan, engine)


def exit_with(outcome: Outcome) -> NoReturn:
    """End the process with the status that the outcome asks for."""
    raise SystemExit(1 if outcome.failed else EXIT.get(outcome.stopped, 1))


def print_steps(request: Request, steps: Sequence[Step], stale: Sequence[Path]) -> None:
    """Each missing step, in order; in a dry run its command."""
    trainings = sum(step.kind == TRAIN for step in steps)
    print(
        f"{request.what}, experiment {request.plan.time}: {trainings} trainings, "
        f"{len(steps) - trainings} evaluations to do"
    )
    for step in steps:
        print(f"  {step.command if request.dry_run else step.name}")
    for folder in stale:
        print(
            f"{folder}: made with other settings or from other cases; it is kept, under superseded"
        )
    sys.stdout.flush()


def estimate(
    request: Request, loads: Mapping[Step, Load], entries: Sequence[Entry], label: str
) -> None:
    """Say what the steps will cost: by logged steps, and by a few that are measured now.

    What runs on a cluster is not measured here.
    """
    if not loads:
        return
    local = request.executor == LOCAL
    seconds_left = request.seconds_left if local else 0
    if local and request.minutes is not None and not request.dry_run:
        seconds_left = min(request.seconds_left or 0.0, MEASURE_PART * 60 * request.minutes)
    configs = [load.config for load in loads.values()]
    speeds = known_speeds(configs, request.devices[0], label, request.out, seconds_left)
    seconds = dict.fromkeys((entry.name for entry in entries), 0.0)
    seconds |= {step.name: load.seconds(speeds) or 0.0 for step, load in loads.items()}
    places = len(request.devices) if local else request.jobs
    wall_s = plan_wall(seconds, {entry.name: entry.needs for entry in entries}, places)
    shown = " ".join(request.devices) if local else f"{request.jobs} jobs of {request.executor}"
    print(describe_loads(loads.values(), speeds, wall_s, shown), flush=True)


def show_outcome(request: Request, outcome: Outcome) -> None:
    """What failed, what was skipped for it, and what is left to do."""
    for name, why in outcome.failed.items():
        print(f"FAILED {name}: {why}\n  log: {request.out / 'logs' / name}.log")
    for name, failed in outcome.skipped.items():
        print(f"skipped {name}: it needs {failed}")
    if outcome.left:
        why = "the time is over" if outcome.stopped == TIME else outcome.stopped
        print(
            f"{why}: {len(outcome.done)} steps done, {len(outcome.left)} left. The same command "
            f"resumes:\n  {request.command}"
        )


def step_device(device: str) -> str:
    """What a step on `device` computes with: speeds belong to it. Steps inherit the environment."""
    threads = os.environ.get(THREADS, len(os.sched_getaffinity(0)))
    return device_name(select_device(device), int(threads))


@contextlib.contextmanager
def share_processors(devices: Sequence[str]) -> Iterator[None]:
    """Processes on the CPU share its threads, unless OMP_NUM_THREADS says how many each has."""
    on_cpu = sum(select_device(device).type == "cpu" for device in devices)
    if on_cpu < 2 or THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(max(len(os.sched_getaffinity(0)) // on_cpu, 1))
    try:
        yield
    finally:
        del os.environ[THREADS]
