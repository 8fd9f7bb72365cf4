"""The process behind one device of `reproduce/run.py`: it runs tasks until it is told to leave.

It imports nothing heavy itself: what a task does is a function that its starter names.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from reproduce.workflow.tasks import Answer, Task
from utils.config import StoppedError

SIGTERM_EXIT = 128 + signal.SIGTERM
GRACE_S = 120.0  # between SIGTERM, on which a training saves, and SIGKILL


Action = Callable[[Task, str], None]  # runs a task on a device; raises where it fails


def work(connection: Connection, action: Action, device: str, lock: Path) -> None:
    """Run each task that comes, with its log file, and answer; None or a closed pipe is the end.

    SIGTERM ends it: a training saves first. So does the death of the process that started it.
    SIGINT is that process's business. `lock` is held, shared, as long as this process lives.
    """
    heed_starter()
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                order: tuple[Task, Path] | None = connection.recv()
                if order is None:
                    return
                answer = run_task(action, order[0], device, order[1])
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the answer goes out whole
                connection.send(answer)
                if answer.status == "stopped":
                    return
                signal.signal(signal.SIGTERM, _leave)


def run_task(action: Action, task: Task, device: str, log: Path) -> Answer:
    """Run `action(task, device)`; all that it prints goes to `log`, behind what is there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {device}\n$ {task.command}", flush=True)
    answer = Answer("done")
    try:
        action(task, device)
    except SystemExit as left:
        stopped = left.code == SIGTERM_EXIT
        message = "was told to leave" if stopped else f"exit status {left.code}"
        answer = Answer("stopped" if stopped else "failed", message)
    except (ValueError, FileNotFoundError, StoppedError) as error:
        print(f"error: {error}", file=sys.stderr)
        answer = Answer("failed", str(error))
    except Exception as error:  # whatever it was, the other tasks go on
        traceback.print_exc()
        answer = Answer("failed", f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    sys.stderr.flush()
    return answer


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(SIGTERM_EXIT)


def heed_starter() -> None:
    """SIGTERM and the starter's death raise SystemExit in this process; Ctrl-C is the starter's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """In a thread: wait for the starter's end, then go the way of SIGTERM, or in `GRACE_S` any."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
