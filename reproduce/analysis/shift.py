"""What the shift costs a row of Table V: a center's cases, its model trained on it or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.analysis.compare import measure
from reproduce.analysis.layout import show_p
from reproduce.analysis.paper_tables import TABLE5_METHODS
from reproduce.analysis.rows import ResultKey, Rows
from reproduce.analysis.stats import (
    PairedTest,
    bootstrap_mean,
    bootstrap_trainings,
    compare_pairs,
    mean_over_centers,
)

BASELINE, WHOLE = "BL", "Ours"
FINE = "tumor_fine"
SIGNIFICANT = 0.05
_ONE_HOLDOUT = "train and evaluate all of them with one --holdout"


@dataclass(frozen=True)
class Shift:
    """A row's Dice (%) on the same cases of a center, once seen in training and once not.

    The cases are those that were held out of training where the center was a source; (seeds,
    cases) each, and a value of `seen` is the mean of the models that saw the center. Comparing one
    center with itself leaves out that centers differ in how hard they are.
    """

    center: str
    seen: np.ndarray
    unseen: np.ndarray
    thresholds: tuple[float, ...] = ()

    @property
    def losses(self) -> np.ndarray:
        """Dice points that each case loses (seeds, cases); positive where the shift hurts."""
        return self.seen - self.unseen


def shift_keys(
    centers: Sequence[str], center: str, seeds: Sequence[int], row: str
) -> tuple[list[list[ResultKey]], list[ResultKey]]:
    """What `measure_shift` reads: held-out cases of each model that saw `center`, for each seed.

    And those of the model that had it as its target, for each seed.
    """
    method = TABLE5_METHODS[row]
    seen = [
        [ResultKey(FINE, target, method, seed, heldout=center) for seed in seeds]
        for target in centers
        if target != center
    ]
    return seen, [ResultKey(FINE, center, method, seed) for seed in seeds]


def measure_shift(rows: Rows, center: str, seeds: Sequence[int], row: str) -> Shift | None:
    """What it costs a row of Table V never to have seen `center`.

    Seen: held-out cases of the models that have another target. Unseen: the same cases of the model
    whose target it is, with the target's threshold, which is the same one where centers.toml gives
    none. None where one is missing for any seed. Raises ValueError where the models held out
    different cases.
    """
    seen_keys, unseen_keys = shift_keys(rows.centers, center, seeds, row)
    every = [key for keys in (*seen_keys, unseen_keys) for key in keys]
    if not seen_keys or any(rows.select(key) is None for key in every):
        return None
    try:
        found = [measure([rows.select(key) or () for key in keys]) for keys in seen_keys]
        seen = [part for part in found if part is not None]
        names = seen[0].case_ids if seen else ()
        wanted = [[r for r in rows.select(k) or () if r["case_id"] in names] for k in unseen_keys]
        unseen = measure(wanted)
    except ValueError as error:
        raise ValueError(f"{center}: {error}; {_ONE_HOLDOUT}") from error
    if not seen:
        return None
    if unseen is None or any(part.case_ids != names for part in (*seen, unseen)):
        raise ValueError(
            f"{center}: its models held out or were evaluated on different cases; {_ONE_HOLDOUT}"
        )
    return Shift(
        center,
        np.mean([part.values["dsc"] for part in seen], axis=0),
        unseen.values["dsc"],
        tuple(sorted({t for part in (*seen, unseen) for t in part.thresholds})),
    )


def shift_markdown(row: str, shifts: Mapping[str, Shift | None]) -> str:
    """What the shift costs a row: the same cases, their center seen in training or not."""
    lines = [
        f"## What the shift costs {row}\n",
        "Dice (%), fine tumor stage, pancreas from the segmentation, on the cases of each center "
        "that were held out of training where it was a source. Seen: models trained on other cases "
        "of the center; unseen: the model that had it as its target. A case's value is its mean "
        "over seeds and models. 95 % bootstrap intervals, over cases, and over trainings and "
        "cases.\n",
        *shift_table({row: shifts}),
    ]
    return "\n".join([*lines, "", shift_sentence(row, shifts), ""])


def shift_table(rows: Mapping[str, Mapping[str, Shift | None]]) -> list[str]:
    """The lines of a Markdown table; `rows`: row -> center -> what the shift costs there.

    A line for each center, and one for their mean where none is missing.
    """
    lines = [
        "| row | center | seen | unseen | loss [95 %, cases] | [95 %, trainings and cases] "
        "| p, Wilcoxon | cases | thresholds |",
        "|" + " --- |" * 9,
    ]
    for row, shifts in rows.items():
        for center, shift in shifts.items():
            if shift is None:
                lines.append(f"| {row} | {center} |" + " - |" * 7)
            else:
                lines.append(_shift_line(row, center, [shift]))
        there = [shift for shift in shifts.values() if shift is not None]
        if there and len(there) == len(shifts):
            lines.append(_shift_line(row, "mean", there))
    return lines


def shift_sentence(row: str, shifts: Mapping[str, Shift | None]) -> str:
    """Whether a row loses by the shift, in words."""
    there = [shift for shift in shifts.values() if shift is not None]
    if not there or len(there) < len(shifts):
        return f"What the shift costs {row}: not every result is there yet."
    seen = mean_over_centers([shift.seen for shift in there])
    unseen = mean_over_centers([shift.unseen for shift in there])
    test = _test_losses(there)
    verb = "loses" if seen > unseen else "does not lose"
    return (
        f"{row} {verb} by the shift: {seen:.2f} where the center was seen, {unseen:.2f} "
        f"where it was not; {significance_text(test.p, test.pairs)}."
    )


def _test_losses(shifts: Sequence[Shift]) -> PairedTest:
    return compare_pairs(np.concatenate([shift.losses.mean(axis=0) for shift in shifts]))


def _shift_line(row: str, name: str, shifts: Sequence[Shift]) -> str:
    seen, unseen = (
        mean_over_centers([getattr(shift, part) for shift in shifts]) for part in ("seen", "unseen")
    )
    losses = [shift.losses for shift in shifts]
    cells = [
        *(row, name, f"{seen:.2f}", f"{unseen:.2f}"),
        f"{seen - unseen:+.2f}{interval_text(losses)}",
        trainings_text(losses),
        show_p(_test_losses(shifts).p),
        str(sum(loss.shape[1] for loss in losses)),
        " ".join(f"{t:g}" for t in sorted({t for shift in shifts for t in shift.thresholds})),
    ]
    return f"| {' | '.join(cells)} |"


def significance_text(p: float | None, pairs: int | None) -> str:
    """`p` in words, with the test and its pairs; p None: not tested."""
    if p is None:
        return "not tested"
    word = "significant" if p < SIGNIFICANT else "not significant"
    return f"{word} over cases (Wilcoxon, p = {p:.2g}, {pairs} cases)"


def interval_text(samples: Sequence[np.ndarray]) -> str:
    """The 95 % bootstrap interval over cases of (seeds, cases) for each center, in brackets.

    Nothing where there are too few cases.
    """
    interval = bootstrap_mean([sample.mean(axis=0) for sample in samples])
    return "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]"


def trainings_text(samples: Sequence[np.ndarray]) -> str:
    """The interval over trainings and cases, in brackets; in words where there is one training."""
    interval = bootstrap_trainings(samples)
    if interval is not None:
        return f"[{interval.low:.2f}, {interval.high:.2f}]"
    return "one training" if any(len(sample) == 1 for sample in samples) else "-"
