"""The generalization benchmark on synthetic centers: what the shift costs BL, then Table V.

Everything is computed from `Rows`; `reproduce/run.py --what benchmark` and `reproduce/results.py`
print it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce.analysis.compare import MEAN, METRICS, Line, measure
from reproduce.analysis.layout import show_p
from reproduce.analysis.paper_tables import TABLE5, TABLE5_COARSE, TABLE5_METHODS
from reproduce.analysis.rows import ResultKey, Rows
from reproduce.analysis.shift import (
    BASELINE,
    WHOLE,
    Shift,
    interval_text,
    measure_shift,
    shift_keys,
    shift_markdown,
    significance_text,
)
from reproduce.analysis.stats import mean_over_centers
from reproduce.analysis.tables import Report, make_report, table_keys

CLAIM_DSC = 9.51  # Table V: Ours - BL, mean over the centers, Dice points
MODULES = tuple(row for row in TABLE5_METHODS if row not in (BASELINE, WHOLE))
STAGES = ("tumor_coarse", "tumor_fine")
RowDice = Mapping[str, Mapping[str, np.ndarray | None]]  # row of Table V -> center -> (1, cases)


@dataclass(frozen=True)
class Evidence:
    """What the benchmark shows; None is in place of a missing result."""

    shifts: Mapping[str, Mapping[str, Shift | None]]  # BL and Ours -> center
    seeds: Mapping[tuple[str, int], RowDice]  # stage and seed -> what that seed alone gave
    coarse: Report  # the rows of Table V after the coarse stage
    fine: Report  # Table V


def benchmark_keys(
    centers: Sequence[str],
    targets: Sequence[str],
    seeds: Sequence[int],
    thresholds: Sequence[str],
) -> list[ResultKey]:
    """Every result that the benchmark reads; `centers`: all with lesions."""
    keys = [
        key
        for table in (TABLE5, TABLE5_COARSE)
        for of_seeds in table_keys(table, targets, seeds, thresholds).values()
        for key in of_seeds
    ]
    for row in (BASELINE, WHOLE):
        for center in targets:
            seen, unseen = shift_keys(centers, center, seeds, row)
            keys += [key for of_model in (*seen, unseen) for key in of_model]
    return list(dict.fromkeys(keys))


def measure_benchmark(
    rows: Rows, targets: Sequence[str], seeds: Sequence[int], thresholds: Sequence[str]
) -> Evidence:
    """Everything that the benchmark shows, of `targets`."""
    return Evidence(
        shifts={
            row: {name: measure_shift(rows, name, seeds, row) for name in targets}
            for row in (BASELINE, WHOLE)
        },
        seeds={
            (stage, seed): measure_dice(rows, targets, stage, seed)
            for stage in STAGES
            for seed in seeds
        },
        coarse=make_report(
            TABLE5_COARSE, rows, table_keys(TABLE5_COARSE, targets, seeds, thresholds[:1])
        ),
        fine=make_report(TABLE5, rows, table_keys(TABLE5, targets, seeds, thresholds)),
    )


def measure_dice(rows: Rows, targets: Sequence[str], stage: str, seed: int) -> RowDice:
    """Row of Table V -> target -> its cases' Dice (%) after a tumor stage, the center unseen.

    (1, cases) each; ROI from the segmentation, the target's threshold. None where it is missing.
    """
    found: dict[str, dict[str, np.ndarray | None]] = {}
    for row, method in TABLE5_METHODS.items():
        found[row] = {}
        for target in targets:
            part = measure([rows.select(ResultKey(stage, target, method, seed)) or ()])
            found[row][target] = None if part is None else part.values["dsc"]
    return found


def benchmark_markdown(evidence: Evidence, report: Report, facts: Sequence[str]) -> str:
    """The report: what made it, the shift, the verdict, seed by seed, coarse stage, Table V.

    `report`: Table V, with the commands that fill what is missing where there are any.
    """
    return "\n".join(
        [
            "# Generalization benchmark on synthetic centers\n",
            "\n".join(facts) + "\n",
            *(shift_markdown(row, shifts) for row, shifts in evidence.shifts.items()),
            verdict_markdown(report.lines),
            "## Seed by seed\n",
            seeds_markdown(evidence.seeds),
            evidence.coarse.markdown,
            report.markdown,
        ]
    )


def seeds_markdown(dice: Mapping[tuple[str, int], RowDice]) -> str:
    """Every row against BL, seed by seed: how trainings scatter."""
    text = (
        f"Dice (%) of {BASELINE} on the unseen centers, mean over centers, and what each row has "
        "more than it in the same seed, on the same cases (threshold target; one training per row: "
        "the 95 % bootstrap intervals hold the scatter of cases only). Two seeds differ by their "
        "trainings.\n"
    )
    named = {f"{stage.removeprefix('tumor_')}, {seed}": of for (stage, seed), of in dice.items()}
    return "\n".join([text, *seeds_table(named)]) + "\n"


def seeds_table(dice: Mapping[str, RowDice]) -> list[str]:
    """The lines of a Markdown table; `dice`: a line's name -> results of one training a row."""
    others = [row for row in TABLE5_METHODS if row != BASELINE]
    lines = [
        f"| stage, seed | {BASELINE} | {' | '.join(others)} |",
        "| --- |" + " --- |" * len(TABLE5_METHODS),
    ]
    for name, rows in dice.items():
        base = _every_center(rows[BASELINE])
        shown = ["-" if base is None else f"{mean_over_centers(base):.2f}"]
        for row in others:
            gains = _gains(rows, row)
            text = "-" if gains is None else f"{mean_over_centers(gains):+.2f}"
            shown.append(text + ("" if gains is None else interval_text(gains)))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def _every_center(dice: Mapping[str, np.ndarray | None]) -> list[np.ndarray] | None:
    """The cases' Dice of each center; None where a center is missing."""
    there = [values for values in dice.values() if values is not None]
    return there if len(there) == len(dice) else None


def _gains(dice: RowDice, row: str) -> list[np.ndarray] | None:
    """What each case has more than in BL, for each center; None where a result is missing.

    Also where the two have other cases.
    """
    ours, base = _every_center(dice[row]), _every_center(dice[BASELINE])
    if ours is None or base is None:
        return None
    if any(one.shape != other.shape for one, other in zip(ours, base, strict=True)):
        return None
    return [one - other for one, other in zip(ours, base, strict=True)]


def verdict_markdown(lines: Sequence[Line]) -> str:
    """Whether the paper's claim comes out: one sentence for each part of it and threshold."""
    found = {(line.threshold, line.row, line.metric): line for line in lines if line.center == MEAN}
    parts = []
    for threshold in dict.fromkeys(line.threshold for line in lines):
        whole = {metric: found.get((threshold, WHOLE, metric)) for metric in METRICS}
        modules = {row: found.get((threshold, row, "dsc")) for row in MODULES}
        if any(line is None or line.gain is None for line in whole.values()):
            parts.append(f"- threshold {threshold}: not every result is there yet.")
            continue
        sentences = [_dice_sentence(whole["dsc"])]
        sentences += [_surface_sentence(whole[metric]) for metric in ("asd_mm", "hd95_mm")]
        sentences.append(_modules_sentence(modules))
        parts += [f"- threshold {threshold}: {text}" for text in sentences]
    return "\n".join(["## The paper's claim\n", *parts]) + "\n"


def _dice_sentence(line: Line | None) -> str:
    assert line is not None
    assert line.gain is not None
    reached = "reaches" if line.gain >= CLAIM_DSC else "does not reach"
    return (
        f"{WHOLE} - {BASELINE} is {signed(line)} Dice points over cases, {trainings_words(line)}; "
        f"it {reached} the paper's +{CLAIM_DSC}; {significance_text(line.p, line.pairs)}; "
        f"{mixed_words(line)}."
    )


def _surface_sentence(line: Line | None) -> str:
    assert line is not None
    assert line.gain is not None
    lower = "lower" if line.gain < 0 else "not lower"
    return (
        f"{METRICS[line.metric]} of {WHOLE} is {lower}: {signed(line)} mm over cases, "
        f"{trainings_words(line)}; {significance_text(line.p, line.pairs)}."
    )


def _modules_sentence(modules: Mapping[str, Line | None]) -> str:
    shown, gains = [], []
    for row, line in modules.items():
        if line is None or line.gain is None:
            return f"what each module adds alone: {row} is not there yet."
        shown.append(f"{row} {signed(line)}")
        gains.append(line.gain)
    adds = "each module alone adds" if min(gains) > 0 else "not every module alone adds"
    return f"{adds} something, Dice points over {BASELINE}: {', '.join(shown)}."


def signed(line: Line) -> str:
    """A gain with its interval over cases."""
    if line.gain_low is None or line.gain_high is None:
        return f"{line.gain:+.2f}"
    return f"{line.gain:+.2f} [{line.gain_low:.2f}, {line.gain_high:.2f}]"


def trainings_words(line: Line) -> str:
    """A gain's interval over trainings and cases, in words; that there is none, with one seed."""
    if line.gain_low_trainings is None or line.gain_high_trainings is None:
        return "one training per row: the interval holds the scatter of cases only"
    return (
        f"[{line.gain_low_trainings:.2f}, {line.gain_high_trainings:.2f}] over trainings and cases"
    )


def mixed_words(line: Line) -> str:
    """The mixed model's interval and p, in words."""
    if line.mixed is None or line.mixed_low is None or line.mixed_high is None:
        return "no mixed model"
    return (
        f"mixed model [{line.mixed_low:.2f}, {line.mixed_high:.2f}], p = {show_p(line.mixed_p)}"
    ).replace("p = <", "p <")
