"""SIGINT, SIGTERM and SIGHUP: noted where state must be saved first, else one line and an exit.

Worker processes leave them to the process that started them, and end with it. What is ignored
before (SIGHUP under `nohup`, SIGINT in a step of an experiment) stays ignored.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 2.0  # a launcher and a terminal both send: a signal so soon after another is the same one
POLL_S = 1.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class SignalReceived(BaseException):
    """Ends work that can be given up at once; what it was is in the `Noted` that raised it."""


class Noted(list[int]):
    """The signals that have come, in order; one that only repeats another is left out."""

    def __init__(self) -> None:
        super().__init__()
        self._raises = False
        self._last = -AGAIN_S

    @property
    def status(self) -> int:
        """The exit status that says which came first, as a shell would give it."""
        return exit_status(self[0])

    @contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """A signal inside raises `SignalReceived`; one that has come before does so now."""
        self._raises = True
        try:
            if self:
                raise SignalReceived
            yield
        finally:
            self._raises = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        repeated = time.monotonic() - self._last < AGAIN_S
        self._last = time.monotonic()
        if repeated:
            return
        self.append(number)
        if self._raises:
            self._raises = False  # what is cleaned up now is not interrupted again
            raise SignalReceived


@contextmanager
def noted_signals() -> Iterator[Noted]:
    """Signals are noted inside, instead of ending the process. Only in the main thread."""
    received = Noted()
    before = _handle(received.note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_on_signals() -> None:
    """From now on a signal ends the process with one line and status 130, 143 or 129."""
    last = -AGAIN_S

    def exit_now(number: int, frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last < AGAIN_S:
            return  # what is cleaned up is not interrupted
        last = time.monotonic()
        say_ended(number)
        raise SystemExit(exit_status(number))

    _handle(exit_now)


def say_ended(number: int, what: str = "ended early; the same command resumes") -> None:
    """One line on stderr, of the first process where several train together."""
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):  # after SIGHUP there may be no terminal
            os.write(2, f"{signal.Signals(number).name}: {what}\n".encode())


def exit_status(number: int) -> int:
    """The exit status of a process that signal `number` has ended, as a shell gives it."""
    return 128 + number


@contextmanager
def held_signals() -> Iterator[None]:
    """Signals wait until the end; processes that are started inside never see them.

    They take `obey_parent` as their first call.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent() -> None:
    """In a worker process: signals are its parent's business, and the parent's end is its own.

    A signal to the whole group (Ctrl-C, `timeout`, Slurm, docker) would end the workers while the
    parent still needs them to reach a state that it can save. SIGTERM from the parent itself ends
    the worker.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    exit_with_parent(signal.SIGKILL, parent.pid)
    threading.Thread(target=_end_when_told, args=(parent.pid,), daemon=True).start()


def _end_when_told(parent: int) -> None:
    while os.getppid() == parent:
        if not hasattr(signal, "sigtimedwait"):  # macOS
            time.sleep(POLL_S)
            continue
        told = signal.sigtimedwait((signal.SIGTERM,), POLL_S)
        if told is not None and told.si_pid == parent:
            break
    os._exit(1)  # its main thread may wait for work for ever


def exit_with_parent(number: int, parent: int | None = None) -> None:
    """Have the kernel send this process signal `number` when the thread that started it ends.

    `parent`: its process, where it may have ended before this call; then the signal comes now.
    Linux only; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def _handle(handler: Any) -> dict[int, Any]:
    """Install a handler for what is not ignored; the handlers before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    changed: dict[int, Any] = {n: h for n, h in before.items() if h is not signal.SIG_IGN}
    for number in changed:
        signal.signal(number, handler)
    return changed
