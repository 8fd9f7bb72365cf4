"""What processes hold: one call a folder, one process a device."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from utils.config import StoppedError
from utils.leftovers import remove_leftovers
from utils.locks import lock_file, share_lock, try_lock

RUN_LOCK, STEPS_LOCK = "run.lock", "steps.lock"
GRACE_S = 120.0  # between SIGTERM, on which a training saves, and SIGKILL
POLL_S = 0.2


@contextmanager
def only_one(folder: Path, seconds: float = GRACE_S) -> Iterator[None]:
    """Hold `folder` against a second call, and wait for the steps of one that was killed.

    Raises StoppedError where another call is at work, or such steps do not end in `seconds`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_file(folder / RUN_LOCK) as handle:
        if not try_lock(handle):
            raise StoppedError(
                f"{folder}: another reproduce/run.py is at work here; wait for it, or give "
                "another --out"
            )
        if not no_step_runs(folder, 0.0):
            print(f"{folder}: the steps of a killed call still save; waiting", flush=True)
            if not no_step_runs(folder, seconds):
                raise StoppedError(
                    f"{folder}: steps of an earlier call still run; wait for them, or end them "
                    f"(pids and hosts are in {folder / 'steps'})"
                )
        for place in (folder, folder / "steps", folder / "logs"):
            remove_leftovers(place, alone=True)
        yield


def no_step_runs(folder: Path, seconds: float) -> bool:
    """Whether no step holds `folder` any more, `seconds` from now at the latest."""
    end = time.monotonic() + seconds
    with lock_file(folder / STEPS_LOCK) as handle:
        while not try_lock(handle):
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
    return True


@contextmanager
def hold_step(folder: Path) -> Iterator[None]:
    """Be one of the steps that `only_one` and `no_step_runs` wait for."""
    with lock_file(folder / STEPS_LOCK) as handle:
        share_lock(handle)
        yield


@contextmanager
def claim_device(folder: Path, devices: Sequence[str]) -> Iterator[str]:
    """One of `devices` that no other process holds, waiting for one; its lock dies with us.

    A name may be given several times: so many processes share that device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        handles = [
            stack.enter_context(lock_file(folder / f"{number}.lock"))
            for number in range(len(devices))
        ]
        while True:
            for handle, device in zip(handles, devices, strict=True):
                if try_lock(handle):
                    yield device
                    return
            time.sleep(POLL_S)
