"""Run one step of a plan file: python reproduce/workflow/run_step.py PLAN NAME

Snakemake starts it (see Snakefile). What the step prints goes to logs/NAME.log of the plan's
folder; steps/NAME.json says how it is, and steps/NAME.done is written last.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reproduce.workflow.plan_file import Entry, read_plan, write_mark, write_status
from reproduce.workflow.processes import claim_device, hold_step
from utils.errors import describe_error
from utils.signals import exit_on_signals, exit_status, exit_with_parent

SIGTERM_EXIT = exit_status(signal.SIGTERM)
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def main() -> int:
    """Exit status: 0 done, 143 terminated, 1 failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("name")
    parser.add_argument("--parent", type=int, help="the process whose end is this one's end")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the starter's business
    exit_on_signals()
    exit_with_parent(signal.SIGTERM, args.parent)
    plan = read_plan(args.plan)
    (entry,) = (step for step in plan.steps if step.name == args.name)
    os.chdir(plan.folder)
    if plan.claims:
        set_threads(plan.threads)
    with ExitStack() as stack:
        stack.enter_context(hold_step(plan.out))
        device = plan.devices[0]
        if plan.claims:
            device = stack.enter_context(claim_device(plan.out / "devices", plan.devices))
        log = plan.out / "logs" / f"{entry.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as handle:
            os.dup2(handle.fileno(), 1)
            os.dup2(handle.fileno(), 2)
        status = {"status": "running", "device": device, "pid": os.getpid()}
        status |= {"host": socket.gethostname(), "facts": entry.facts}
        write_status(plan.out, entry.name, status)
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {device}\n$ {entry.command}", flush=True)
        status |= run_entry(entry, device)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is done is noted whole
        write_status(plan.out, entry.name, status)
        if status["status"] == "done":
            write_mark(plan.out, entry.name)
            return 0
    return SIGTERM_EXIT if status["status"] == "terminated" else 1


def run_entry(entry: Entry, device: str) -> dict[str, Any]:
    """Do the work; how it ended: "done", "failed" or "terminated", why, in how many seconds."""
    started = time.monotonic()
    ended: dict[str, Any] = {"status": "failed"}
    try:
        load_action(entry.action)(entry.request, device)
        ended["status"] = "done"
    except SystemExit as exit_:
        if exit_.code == SIGTERM_EXIT:
            ended["status"] = "terminated"
        ended["message"] = f"exit status {exit_.code}"
    except Exception as error:  # whatever it was, it goes to the log, and the report names it
        message = describe_error(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
        else:
            print(f"error: {message}", file=sys.stderr)
        ended["message"] = message
    sys.stdout.flush()
    sys.stderr.flush()
    return ended | {"seconds": time.monotonic() - started}


def set_threads(threads: int | None) -> None:
    """How many threads libraries begin; Snakemake has said one. None: as many as processors."""
    for name in THREADS:
        os.environ.pop(name, None)
        if threads is not None:
            os.environ[name] = str(threads)


def load_action(name: str) -> Callable[[Any, str], None]:
    """The function "module:function" that does a step, of its request and its device."""
    module, _, function = name.partition(":")
    found: Callable[[Any, str], None] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
