"""The generalization benchmark on synthetic centers: what the shift costs BL, then Table V.

`reproduce/run.py --what benchmark` trains what is missing and calls this; it reads results only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.centers import Center
from reproduce.cells import Plan, find_folders, lesion_centers, make_cell
from reproduce.compare import MEAN, METRICS, Line
from reproduce.stats import bootstrap_mean, compare_pairs, mean_over_centers
from reproduce.tables import Report
from utils.evaluation import read_cases
from utils.stages import VARIANTS

STAGE, COARSE_STAGE = "tumor_fine", "tumor_coarse"
BASELINE, WHOLE = "BL", "Ours"
MISSED_DSC = 1  # percent; below it a lesion counts as missed
CLAIM_DSC = 9.51  # Table V: Ours - BL, mean over the centers, Dice points
SIGNIFICANT = 0.05
Dice = dict[str, float]  # case id -> percent
MODULES = tuple(row for row in VARIANTS if row not in (BASELINE, WHOLE))


@dataclass(frozen=True)
class Shift:
    """A row's Dice (%) on the same cases of a center, once seen in training and once not.

    The cases are those that were held out of training where the center was a source; (cases,)
    each, a value is the mean over seeds (and over the models that saw the center). Comparing one
    center with itself leaves out that centers differ in how hard they are.
    """

    center: str
    seen: np.ndarray
    unseen: np.ndarray
    thresholds: tuple[float, ...] = ()

    @property
    def losses(self) -> np.ndarray:
        """Dice points that each case loses (cases,); positive where the shift hurts."""
        return self.seen - self.unseen


def measure_shift(
    plan: Plan, centers: Mapping[str, Center], center: str, seeds: Sequence[int], variant: str
) -> Shift | None:
    """What it costs a row of Table V never to have seen `center`.

    Seen: held-out cases of the models that have another target, from the protocol `heldout`.
    Unseen: the same cases of the model whose target it is, from the protocol `paper`, which has the
    same threshold where centers.toml gives none. None where one is missing for any seed. Raises
    ValueError where the models held out different cases.
    """
    seen: list[Dice] = []
    unseen: list[Dice] = []
    thresholds: set[float] = set()
    for seed in seeds:
        for target in lesion_centers(centers):
            cell = make_cell(centers, STAGE, target, variant=variant, seed=seed)
            folders = find_folders(plan, cell)
            if not folders:
                return None
            if target == center:
                unseen.append(_read_dice(folders[0], thresholds))
                continue
            folder = folders[0].parent / f"evaluation_{center}_{cell.roi_source}_heldout"
            if not (folder / "done").is_file():
                return None
            seen.append(_read_dice(folder, thresholds))
    cases = sorted(seen[0]) if seen else []
    if not cases:
        return None
    return Shift(
        center,
        _mean_of_models(seen, cases, center),
        _mean_of_models(
            [{c: d for c, d in part.items() if c in cases} for part in unseen], cases, center
        ),
        tuple(sorted(thresholds)),
    )


def measure_shifts(
    plan: Plan, centers: Mapping[str, Center], seeds: Sequence[int]
) -> dict[str, dict[str, Shift | None]]:
    """For BL and Ours the shift to each center with lesions."""
    return {
        variant: {
            center: measure_shift(plan, centers, center, seeds, variant)
            for center in lesion_centers(centers)
        }
        for variant in (BASELINE, WHOLE)
    }


def measure_coarse(
    plan: Plan, centers: Mapping[str, Center], seeds: Sequence[int]
) -> dict[str, dict[str, np.ndarray | None]]:
    """Row of Table V -> center -> its cases' Dice (%) after the coarse stage (C-Seg), unseen.

    (cases,) each, a value is the mean over seeds, of the protocol `paper`. None where one is
    missing for any seed. Raises ValueError where the seeds evaluated different cases.
    """
    return {
        variant: {
            center: _coarse_dice(plan, centers, center, seeds, variant)
            for center in lesion_centers(centers)
        }
        for variant in VARIANTS
    }


def _coarse_dice(
    plan: Plan, centers: Mapping[str, Center], center: str, seeds: Sequence[int], variant: str
) -> np.ndarray | None:
    parts: list[Dice] = []
    for seed in seeds:
        folders = find_folders(
            plan, make_cell(centers, COARSE_STAGE, center, variant=variant, seed=seed)
        )
        if not folders:
            return None
        parts.append(_read_dice(folders[0], set()))
    return _mean_of_models(parts, sorted(parts[0]), center)


def benchmark_markdown(
    shifts: Mapping[str, Mapping[str, Shift | None]],
    coarse: Mapping[str, Mapping[str, np.ndarray | None]],
    report: Report,
    facts: Sequence[str],
) -> str:
    """The whole report: what made it, the shift, the verdict, the coarse stage, Table V."""
    return "\n".join(
        [
            "# Generalization benchmark on synthetic centers\n",
            "\n".join(facts) + "\n",
            *(shift_markdown(variant, of_variant) for variant, of_variant in shifts.items()),
            verdict_markdown(report.lines),
            coarse_markdown(coarse),
            report.markdown,
        ]
    )


def shift_markdown(variant: str, shifts: Mapping[str, Shift | None]) -> str:
    """What the shift costs a row: the same cases, their center seen in training or not."""
    lines = [
        f"## What the shift costs {variant}\n",
        "Dice (%), fine tumor stage, pancreas from the segmentation, on the cases of each center "
        "that were held out of training where it was a source. Seen: models trained on other cases "
        "of the center; unseen: the model that had it as its target. A case's value is its mean "
        "over seeds and models; intervals are 95 % bootstrap intervals over cases.\n",
        "| center | seen | unseen | loss | cases | thresholds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for center, shift in shifts.items():
        if shift is None:
            lines.append(f"| {center} | - | - | - | - | - |")
            continue
        lines.append(
            f"| {center} | {np.mean(shift.seen):.2f} | {np.mean(shift.unseen):.2f} "
            f"| {np.mean(shift.losses):+.2f}{_interval([shift.losses])} | {len(shift.losses)} "
            f"| {' '.join(f'{t:g}' for t in shift.thresholds)} |"
        )
    there = [shift for shift in shifts.values() if shift is not None]
    if not there or len(there) < len(shifts):
        return "\n".join([*lines, "\nNot every cell is there yet."]) + "\n"
    seen = mean_over_centers([shift.seen for shift in there])
    unseen = mean_over_centers([shift.unseen for shift in there])
    losses = [shift.losses for shift in there]
    test = compare_pairs(np.concatenate(losses))
    lines.append(
        f"| mean | {seen:.2f} | {unseen:.2f} | {seen - unseen:+.2f}{_interval(losses)} "
        f"| {test.pairs} | |"
    )
    verb = "loses" if seen > unseen else "does not lose"
    lines.append(
        f"\n{variant} {verb} by the shift: {seen:.2f} where the center was seen, {unseen:.2f} "
        f"where it was not; {_significance(test.p, test.pairs)}."
    )
    return "\n".join(lines) + "\n"


def coarse_markdown(dice: Mapping[str, Mapping[str, np.ndarray | None]]) -> str:
    """Table V's rows as the fine stage gets them: what each row's own coarse stage has found."""
    centers = list(next(iter(dice.values())))
    lines = [
        "## Before the fine stage\n",
        "Dice (%) of each row's coarse tumor stage on the unseen centers (C-Seg, protocol paper); "
        f"missed: cases with a Dice below {MISSED_DSC}. Differences are paired by case, with 95 % "
        "bootstrap intervals and Wilcoxon's p, not corrected for their number.\n",
        f"| row | {' | '.join(centers)} | mean | minus {BASELINE} | p, all cases | missed |",
        "| --- |" + " --- |" * (len(centers) + 4),
    ]
    for row, of_centers in dice.items():
        there = [values for values in of_centers.values() if values is not None]
        shown = ["-" if v is None else f"{np.mean(v):.2f}" for v in of_centers.values()]
        summary = ["-", "", "", ""]
        if len(there) == len(centers):
            missed = np.count_nonzero(np.concatenate(there) < MISSED_DSC)
            summary = [f"{mean_over_centers(there):.2f}", "", "", str(missed)]
        base = [values for values in dice[BASELINE].values() if values is not None]
        if row != BASELINE and len(there) == len(base) == len(centers):
            gains = [ours - theirs for ours, theirs in zip(there, base, strict=True)]
            test = compare_pairs(np.concatenate(gains))
            summary[1] = f"{mean_over_centers(gains):+.2f}{_interval(gains)}"
            summary[2] = "-" if test.p is None else f"{test.p:.2g}"
        lines.append("| " + " | ".join([row, *shown, *summary]) + " |")
    return "\n".join(lines) + "\n"


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
        f"+{CLAIM_DSC}; {_significance(dsc.p, dsc.pairs)}."
    ]
    for metric in ("asd_mm", "hd95_mm"):
        line = whole[metric]
        assert line is not None
        assert line.gain is not None
        lower = "lower" if line.gain < 0 else "not lower"
        sentences.append(
            f"{METRICS[metric]} of {WHOLE} is {lower}: {_signed(line)} mm; "
            f"{_significance(line.p, line.pairs)}."
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


def _significance(p: float | None, pairs: int | None) -> str:
    if p is None:
        return "not tested"
    word = "significant" if p < SIGNIFICANT else "not significant"
    return f"{word} (Wilcoxon, p = {p:.2g}, {pairs} cases)"


def _interval(samples: Sequence[np.ndarray]) -> str:
    interval = bootstrap_mean(samples)
    return "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]"


def _read_dice(folder: Path, thresholds: set[float]) -> Dice:
    """Dice of each case with a label; the cases' thresholds are added to `thresholds`."""
    rows = read_cases(folder / "cases.csv")
    thresholds.update(row["threshold"] for row in rows if "threshold" in row)
    return {str(row["case_id"]): float(row["dsc"]) for row in rows if "dsc" in row}


def _mean_of_models(parts: Sequence[Dice], cases: Sequence[str], center: str) -> np.ndarray:
    """Each case's mean (cases,). Raises ValueError where a model has not these cases."""
    if any(sorted(part) != list(cases) for part in parts):
        raise ValueError(
            f"{center}: its models held out or were evaluated on different cases; train and "
            "evaluate all of them with one --holdout"
        )
    return np.array([[part[name] for name in cases] for part in parts]).mean(axis=0)
