"""What each row loses under changes of the image, in short: one number for each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.analysis.shift_cases import ShiftedCase
from reproduce.analysis.shift_losses import (
    PLAIN,
    SHIFTS,
    ByPlace,
    Key,
    by_place,
    pair_cases,
    show_key,
)
from reproduce.analysis.stats import mean_over_centers


@dataclass(frozen=True)
class MiddleLosses:
    """Dice points that each row loses at the middle strength, mean over cases, then centers.

    `rows`: in the order of `changes`; None where a center is missing. Of the kinds of lesion, which
    have no order, the mean. `unchanged`: Dice (%) of the same cases. `seeds`: how many trainings
    each row has, of the center with the fewest.
    """

    changes: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    unchanged: Mapping[str, float | None]
    seeds: Mapping[str, int]


def middle_losses(cases: Sequence[ShiftedCase], stage: str = "tumor_fine") -> MiddleLosses:
    """`make_matrix` in short, without intervals: a table that a page has room for."""
    chosen = [case for case in cases if case.stage == stage]
    centers, dice = sorted({case.target for case in chosen}), by_place(chosen)
    names = [name for name in SHIFTS if any(case.change == name for case in chosen)]
    rows, unchanged, seeds = {}, {}, {}
    for row in dict.fromkeys(case.row for case in chosen):
        rows[row] = tuple(_loss(dice, row, name, centers) for name in names)
        plain = [dice.get((row, center, PLAIN), {}) for center in centers]
        seeds[row] = min(len({seed for seed, _ in part}) for part in plain)
        there = [np.array([*part.values()]) for part in plain if part]
        unchanged[row] = mean_over_centers(there) if len(there) == len(centers) else None
    return MiddleLosses(tuple(map(_show, names)), rows, unchanged, seeds)


def _show(change: str) -> str:
    """A change and its middle strength."""
    keys = _keys(change)
    return show_key(keys[0]) if len(keys) == 1 else f"{change} ({', '.join(k for _, k in keys)})"


def _keys(change: str) -> list[Key]:
    strengths = SHIFTS[change].strengths
    if isinstance(strengths[1], str):
        return [(change, str(strength)) for strength in strengths]
    return [(change, f"{strengths[1]:g}")]


def _loss(dice: ByPlace, row: str, change: str, centers: Sequence[str]) -> float | None:
    losses = []
    for key in _keys(change):
        pairs = [pair_cases(dice.get((row, c, PLAIN)), dice.get((row, c, key))) for c in centers]
        there = [before - after for pair in pairs if pair is not None for before, after in [pair]]
        if len(there) < len(centers):
            return None
        losses.append(mean_over_centers(there))
    return float(np.mean(losses))
