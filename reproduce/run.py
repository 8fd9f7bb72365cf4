"""Fill tables: python reproduce/run.py --what table5 --centers centers.toml --devices cuda:0 cuda:1

Trains and evaluates what is missing for the named tables, a process for each device, and prints
them at the end. What is done is never done twice, and tables share what they have in common. After
a kill, Ctrl-C or the end of --minutes the same command goes on where it was.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.command_line import run_script
from reproduce.analysis.publish import show_results
from reproduce.experiments.cells import Step
from reproduce.experiments.estimate import known_speeds
from reproduce.experiments.finished import exact_command, is_done, missing_steps
from reproduce.experiments.request import Request, collect_cells, parse_request
from reproduce.experiments.workload import (
    Load,
    describe_loads,
    loads_of,
    plan_wall,
    step_name,
    tasks_of,
)
from reproduce.prepare import count_workers
from reproduce.workflow.actions import run_step
from reproduce.workflow.schedule import TIME, Orders, only_one, run_tasks
from reproduce.workflow.tasks import TRAIN, Report, Task
from utils.device import select_device

SPEEDS = "speeds.json"  # measured on this machine; remove it to measure again
MEASURE_PART = 0.1  # of --minutes: so much goes into measuring, then it does without
EXIT = {"": 0, TIME: 0, "SIGINT": 128 + signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM}


def main(request: Request) -> None:
    """Do what is asked; leaves with status 1 where a step failed, 143 or 130 after a signal."""
    leave(run(request))


def run(request: Request) -> Report:
    """Fill what is missing of what is asked for, print and write it; what became of the steps."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(share_processors(request.devices))
        if not request.dry_run:
            for folder in dict.fromkeys((request.out, request.plan.checkpoints)):
                stack.enter_context(only_one(folder))
        if not draw_phantoms(request):
            return Report(stopped=TIME)
        steps = missing_steps(request.plan, collect_cells(request))
        print_steps(request, steps)
        loads = loads_of(request.plan, steps, request.devices[0])
        tasks = tasks_of(request.plan, loads)
        estimate(request, loads, tasks)
        if request.dry_run:
            return Report()
        report = work_on(request, tasks, steps)
        if report.stopped in ("", TIME):  # after a signal there may be seconds left
            show_results(request, figures=not report.stopped)
        show_report(request, report)
    return report


def leave(report: Report) -> NoReturn:
    """End the process with the status that the report asks for."""
    raise SystemExit(1 if report.failed else EXIT[report.stopped])


def draw_phantoms(request: Request) -> bool:
    """Draw the synthetic cases that are asked for and not there yet; False: the time is over."""
    if request.phantoms is None:
        return True
    try:
        request.phantoms.draw(request.out / "centers", count_workers(), request.seconds_left)
    except TimeoutError:
        print(
            "the time is over: synthetic cases are left to be drawn. The same command goes on:\n"
            f"  {request.command}"
        )
        return False
    return True


def print_steps(request: Request, steps: Sequence[Step]) -> None:
    """Each missing step, in order; in a dry run its command."""
    trainings = sum(step.kind == TRAIN for step in steps)
    print(f"{request.what}: {trainings} trainings, {len(steps) - trainings} evaluations to do")
    for step in steps:
        print(f"  {exact_command(step) if request.dry_run else step_name(step)}")
    sys.stdout.flush()


def estimate(request: Request, loads: Mapping[Step, Load], tasks: Sequence[Task]) -> None:
    """Say what the steps will cost, from a few that are measured now."""
    if not loads:
        return
    configs = [load.config for load in loads.values()]
    seconds_left = request.seconds_left
    if seconds_left is not None and request.minutes is not None and not request.dry_run:
        seconds_left = min(seconds_left, MEASURE_PART * 60 * request.minutes)
    speeds = known_speeds(configs, request.devices[0], request.out / SPEEDS, seconds_left)
    seconds = dict.fromkeys((task.name for task in tasks), 0.0)
    seconds |= {step_name(step): load.seconds(speeds) or 0.0 for step, load in loads.items()}
    needs = {task.name: task.needs for task in tasks}
    wall_s = plan_wall(seconds, needs, len(request.devices))
    print(describe_loads(loads.values(), speeds, wall_s, request.devices), flush=True)


def work_on(request: Request, tasks: Sequence[Task], steps: Sequence[Step]) -> Report:
    """Run the tasks on the devices until they are done, or the time is over."""
    by_name = {step_name(step): step for step in steps}
    orders = Orders(
        action=run_step,
        logs=request.out / "logs",
        folder=request.out,
        is_done=lambda task: task.name in by_name and is_done(by_name[task.name]),
        seconds=request.seconds_left,
        say=functools.partial(print, flush=True),
    )
    return run_tasks(tasks, request.devices, orders)


def show_report(request: Request, report: Report) -> None:
    """What failed, what was left out for it, and what is left to do."""
    for name, why in report.failed.items():
        print(f"FAILED {name}: {why}\n  log: {request.out / 'logs' / name}.log")
    for name, failed in report.skipped.items():
        print(f"left out {name}: it needs {failed}")
    if report.left:
        why = "the time is over" if report.stopped == TIME else report.stopped
        print(
            f"{why}: {len(report.done)} steps done, {len(report.left)} left. The same command goes "
            f"on:\n  {request.command}"
        )


@contextlib.contextmanager
def share_processors(devices: Sequence[str]) -> Iterator[None]:
    """Processes on the CPU share its threads, unless OMP_NUM_THREADS says how many each has."""
    on_cpu = sum(select_device(device).type == "cpu" for device in devices)
    name = "OMP_NUM_THREADS"
    if on_cpu < 2 or name in os.environ:
        yield
        return
    os.environ[name] = str(max(len(os.sched_getaffinity(0)) // on_cpu, 1))
    try:
        yield
    finally:
        del os.environ[name]


def run_request(action: Callable[[Request], None], request: Request) -> None:
    """`action(request)` as a script: SIGTERM and Ctrl-C end it so that what it holds is let go."""

    def leave_now(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT["SIGTERM"])

    signal.signal(signal.SIGTERM, leave_now)
    try:
        run_script(action, request)
    except KeyboardInterrupt:
        raise SystemExit(EXIT["SIGINT"]) from None


if __name__ == "__main__":
    run_request(main, parse_request(__doc__))
