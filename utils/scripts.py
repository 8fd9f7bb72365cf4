"""How every script reads its command line and ends: one message, and a status that says why.

0 done; 1 a step or a check failed; 2 something that the user can fix; 130, 143, 129 a signal.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from utils.errors import describe_error

Request = TypeVar("Request")
USER_ERROR = 2
BROKEN_PIPE = 141  # as a shell says of what SIGPIPE ended


class ArgumentParser(argparse.ArgumentParser):
    """argparse's, but a wrong command line is one message: some usages are a hundred lines long."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        # A type's own message begins with the value: "--minutes 0: above 0".
        own = r"^argument ([^:]+): (?!invalid |expected |not allowed |ignored )"
        message = re.sub(own, r"\1 ", " ".join(message.split()))
        _say(message)
        raise SystemExit(USER_ERROR)


def run_script(action: Callable[[Request], Any], request: Request) -> None:
    """Run a script's work; what the user can fix ends it with one message and status 2."""
    try:
        action(request)
        sys.stdout.flush()
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes
            raise SystemExit(BROKEN_PIPE) from None
        message = describe_error(error)
        if message is None:
            raise
        _say(message)
        raise SystemExit(USER_ERROR) from error


def _say(message: str) -> None:
    """In one write: `print` writes the line's end apart, and two processes would share a line."""
    sys.stderr.write(f"error: {message}\n")
