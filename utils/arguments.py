"""Types for argparse that know their range, so that no script takes what cannot work."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from utils.config import MAX_WORKERS, TIME_RULE, is_time
from utils.settings import SEEDS, Range


def whole(allowed: Range) -> Callable[[str], int]:
    """An argument that is a whole number in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError as error:  # also where there are more than 4300 digits
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: a whole number") from error
        return _checked(number, allowed, text)

    return parse


def real(allowed: Range) -> Callable[[str], float]:
    """An argument that is a number in a range; NaN and infinity are none."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: a number") from error
        return _checked(number, allowed, text)

    return parse


def timestamp(text: str) -> str:
    """The timestamp of a run, which is part of a folder's name."""
    if not is_time(text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r}: {TIME_RULE}")
    return text


Number = TypeVar("Number", int, float)
Seed = whole(SEEDS)
Count = whole(Range(least=1, most=1_000_000))
Workers = whole(Range(least=0, most=MAX_WORKERS))


def _checked(number: Number, allowed: Range, text: str) -> Number:
    fault = allowed.fault((number,))
    if fault:
        raise argparse.ArgumentTypeError(f"{text[:40]}: {fault}")
    return number
