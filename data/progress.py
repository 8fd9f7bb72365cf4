"""A progress bar in a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
LINE_EVERY_S = 15.0


def track(items: Iterable[T], total: int, text: str) -> Iterator[T]:
    """Pass `items` through and say on stderr how far it is, with the remaining time."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=text)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= LINE_EVERY_S:
            said = now
            left = (now - started) / done * (total - done)
            print(f"{text}: {done} of {total}, {left:.0f} s left", file=sys.stderr, flush=True)
