"""What every script imports first: from here on a signal ends it with one line, no traceback.

The imports that follow take seconds. Where a script is only imported (by a test, or again by one of
its worker processes) nothing happens.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from pathlib import Path

from utils.commands import ROOT
from utils.signals import exit_on_signals


def _is_ours(main: str | None) -> bool:
    """Whether the file that Python was started with is one of this project's."""
    path = Path(main or "/").resolve()
    if not path.is_relative_to(ROOT):
        return False
    return not any(part.startswith(".") for part in path.relative_to(ROOT).parts)  # .venv/bin


if multiprocessing.parent_process() is None and _is_ours(
    getattr(sys.modules["__main__"], "__file__", None)
):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    exit_on_signals()
