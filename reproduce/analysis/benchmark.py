"""The generalization benchmark on synthetic centers: what the shift costs BL, then Table V.

`reproduce/run.py --what benchmark` trains what is missing and calls this; it reads results only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.case import Center
from reproduce.analysis.compare import MEAN, METRICS, Line
from reproduce.analysis.paper_tables import TABLE5_METHODS as VARIANTS
from reproduce.analysis.shift import (
    BASELINE,
    COARSE,
    FINE,
    WHOLE,
    Shift,
    interval_text,
    mean_of_models,
    measure_shift,
    read_values,
    shift_markdown,
    significance_text,
)
from reproduce.analysis.stats import compare_pairs, mean_over_centers
from reproduce.analysis.tables import Report
from reproduce.experiments.cells import Cell, Plan, lesion_centers, make_cell
from reproduce.experiments.finished import find_folders

MISSED_DSC = 1  # percent; below it a lesion counts as missed
CLAIM_DSC = 9.51  # Table V: Ours - BL, mean over the centers, Dice points
MODULES = tuple(row for row in VARIANTS if row not in (BASELINE, WHOLE))
RowDice = Mapping[str, Mapping[str, np.ndarray | None]]  # row of Table V -> center -> (cases,)


@dataclass(frozen=True)
class Evidence:
    """What the benchmark shows beside Table V; None stands where a cell is missing."""

    shifts: Mapping[str, Mapping[str, Shift | None]]  # BL and Ours -> center
    coarse: RowDice  # after the coarse stage, the mean over all seeds
    seeds: Mapping[tuple[str, int], RowDice]  # stage and seed -> what that seed alone gave


def measure_benchmark(
    plan: Plan,
    centers: Mapping[str, Center],
    seeds: Sequence[int],
    targets: Sequence[str] | None = None,
) -> Evidence:
    """Read everything that the benchmark shows beside Table V, of `targets` (None: all)."""
    shown = lesion_centers(centers) if targets is None else targets
    return Evidence(
        shifts={
            variant: {name: measure_shift(plan, centers, name, seeds, variant) for name in shown}
            for variant in (BASELINE, WHOLE)
        },
        coarse=measure_dice(plan, centers, shown, COARSE, seeds),
        seeds={
            (stage, seed): measure_dice(plan, centers, shown, stage, [seed])
            for stage in (COARSE, FINE)
            for seed in seeds
        },
    )


def measure_dice(
    plan: Plan,
    centers: Mapping[str, Center],
    targets: Sequence[str],
    stage: str,
    seeds: Sequence[int],
) -> RowDice:
    """Row of Table V -> target -> its cases' Dice (%) after a tumor stage, the center unseen.

    (cases,) each, a value is the mean over seeds; ROI from the segmentation, protocol `paper`.
    None where one is missing for any seed. Raises ValueError where the seeds evaluated different
    cases.
    """
    return {
        variant: {
            target: _unseen_dice(
                plan,
                [
                    make_cell(centers, stage, target, method=VARIANTS[variant], seed=seed)
                    for seed in seeds
                ],
            )
            for target in targets
        }
        for variant in VARIANTS
    }


def _unseen_dice(plan: Plan, cells: Sequence[Cell]) -> np.ndarray | None:
    parts = []
    for cell in cells:
        folders = find_folders(plan, cell)
        if not folders:
            return None
        parts.append(read_values(folders[0], "dsc"))
    return mean_of_models(parts, sorted(parts[0]), cells[0].target)


def benchmark_markdown(evidence: Evidence, report: Report, facts: Sequence[str]) -> str:
    """The report: what made it, the shift, the verdict, seed by seed, coarse stage, Table V."""
    return "\n".join(
        [
            "# Generalization benchmark on synthetic centers\n",
            "\n".join(facts) + "\n",
            *(shift_markdown(variant, shifts) for variant, shifts in evidence.shifts.items()),
            verdict_markdown(report.lines),
            seeds_markdown(evidence.seeds),
            coarse_markdown(evidence.coarse),
            report.markdown,
        ]
    )


def seeds_markdown(dice: Mapping[tuple[str, int], RowDice]) -> str:
    """Every row against BL, seed by seed: what trainings scatter, which no interval above holds."""
    others = [row for row in VARIANTS if row != BASELINE]
    lines = [
        "## Seed by seed\n",
        f"Dice (%) of {BASELINE} on the unseen centers, mean over centers, and what each row has "
        "more than it in the same seed, on the same cases (protocol paper; 95 % bootstrap "
        "intervals over cases). Two seeds differ by their trainings, which an interval over cases "
        "does not hold.\n",
        f"| stage, seed | {BASELINE} | {' | '.join(others)} |",
        "| --- |" + " --- |" * len(VARIANTS),
    ]
    for (stage, seed), rows in dice.items():
        base = _every_center(rows[BASELINE])
        shown = ["-" if base is None else f"{mean_over_centers(base):.2f}"]
        for row in others:
            gains = _gains(rows, row)
            text = "-" if gains is None else f"{mean_over_centers(gains):+.2f}"
            shown.append(text + ("" if gains is None else interval_text(gains)))
        lines.append(f"| {stage.removeprefix('tumor_')}, {seed} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def coarse_markdown(dice: RowDice) -> str:
    """Table V's rows as the fine stage gets them: what each row's own coarse stage has found."""
    centers = list(dice[BASELINE])
    lines = [
        "## Before the fine stage\n",
        "Dice (%) of each row's coarse tumor stage on the unseen centers (C-Seg, protocol paper); "
        f"missed: cases with a Dice below {MISSED_DSC}. Differences are paired by case, with 95 % "
        "bootstrap intervals and Wilcoxon's p, not corrected for their number.\n",
        f"| row | {' | '.join(centers)} | mean | minus {BASELINE} | p, all cases | missed |",
        "| --- |" + " --- |" * (len(centers) + 4),
    ]
    for row, of_centers in dice.items():
        shown = ["-" if v is None else f"{np.mean(v):.2f}" for v in of_centers.values()]
        summary = ["-", "", "", ""]
        there, gains = _every_center(of_centers), _gains(dice, row)
        if there is not None:
            missed = np.count_nonzero(np.concatenate(there) < MISSED_DSC)
            summary = [f"{mean_over_centers(there):.2f}", "", "", str(missed)]
        if row != BASELINE and gains is not None:
            test = compare_pairs(np.concatenate(gains))
            summary[1] = f"{mean_over_centers(gains):+.2f}{interval_text(gains)}"
            summary[2] = "-" if test.p is None else f"{test.p:.2g}"
        lines.append("| " + " | ".join([row, *shown, *summary]) + " |")
    return "\n".join(lines) + "\n"


def _every_center(dice: Mapping[str, np.ndarray | None]) -> list[np.ndarray] | None:
    """The cases' Dice of each center; None where a center is missing."""
    there = [values for values in dice.values() if values is not None]
    return there if len(there) == len(dice) else None


def _gains(dice: RowDice, row: str) -> list[np.ndarray] | None:
    """What each case has more than in BL, for each center; None where a cell is missing."""
    ours, base = _every_center(dice[row]), _every_center(dice[BASELINE])
    if ours is None or base is None:
        return None
    return [one - other for one, other in zip(ours, base, strict=True)]


def verdict_markdown(lines: Sequence[Line]) -> str:
    """Whether the paper's claim comes out: one sentence for each part of it and protocol."""
    found = {(line.protocol, line.row, line.metric): line for line in lines if line.center == MEAN}
    parts = ["## The paper's claim\n"]
    for protocol in dict.fromkeys(line.protocol for line in lines):
        whole = {metric: found.get((protocol, WHOLE, metric)) for metric in METRICS}
        modules = {row: found.get((protocol, row, "dsc")) for row in MODULES}
        if any(line is None or line.gain is None for line in whole.values()):
            parts.append(f"- protocol {protocol}: not every cell is there yet.")
            continue
        parts += [f"- protocol {protocol}: {text}" for text in _sentences(whole, modules)]
    return "\n".join(parts) + "\n"


def _sentences(whole: Mapping[str, Line | None], modules: Mapping[str, Line | None]) -> list[str]:
    dsc = whole["dsc"]
    assert dsc is not None
    assert dsc.gain is not None
    reached = "reaches" if dsc.gain >= CLAIM_DSC else "does not reach"
    sentences = [
        f"{WHOLE} - {BASELINE} is {_signed(dsc)} Dice points; it {reached} the paper's "
        f"+{CLAIM_DSC}; {significance_text(dsc.p, dsc.pairs)}."
    ]
    for metric in ("asd_mm", "hd95_mm"):
        line = whole[metric]
        assert line is not None
        assert line.gain is not None
        lower = "lower" if line.gain < 0 else "not lower"
        sentences.append(
            f"{METRICS[metric]} of {WHOLE} is {lower}: {_signed(line)} mm; "
            f"{significance_text(line.p, line.pairs)}."
        )
    shown, gains = [], []
    for row, line in modules.items():
        if line is None or line.gain is None:
            return [*sentences, f"what each module adds alone: {row} is not there yet."]
        shown.append(f"{row} {_signed(line)}")
        gains.append(line.gain)
    adds = "each module alone adds" if min(gains) > 0 else "not every module alone adds"
    sentences.append(f"{adds} something, Dice points over {BASELINE}: {', '.join(shown)}.")
    return sentences


def _signed(line: Line) -> str:
    if line.gain_low is None or line.gain_high is None:
        return f"{line.gain:+.2f}"
    return f"{line.gain:+.2f} [{line.gain_low:.2f}, {line.gain_high:.2f}]"
