"""Progress with the remaining time: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from tqdm import tqdm


class Progress:
    """Counts steps of known number; `seconds` is how often a plain line appears."""

    def __init__(self, name: str, total: int, done: int = 0, seconds: float = 20.0) -> None:
        self.name, self.total, self.done, self.seconds = name, total, done, seconds
        self._first, self._start = done, time.monotonic()
        self._last = self._start
        self._bar = tqdm(total=total, initial=done, desc=name) if sys.stderr.isatty() else None

    def advance(self, values: Mapping[str, float] | None = None) -> None:
        """One step is done; `values` stand behind it."""
        self.done += 1
        shown = " ".join(f"{key} {value:.4g}" for key, value in (values or {}).items())
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._last >= self.seconds or self.done == self.total:
            self._last = now
            left = (now - self._start) / (self.done - self._first) * (self.total - self.done)
            remaining = timedelta(seconds=round(left))
            print(f"{self.name}: {self.done}/{self.total}, {remaining} left  {shown}", flush=True)

    def close(self) -> None:
        """Leave the bar where it stands."""
        if self._bar is not None:
            self._bar.close()
