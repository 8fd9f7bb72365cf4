"""What the shift costs a row of Table V: a center's cases, its model trained on it or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import Center
from engine.case_metrics import read_cases
from reproduce.analysis.paper_tables import TABLE5_METHODS
from reproduce.analysis.stats import bootstrap_mean, compare_pairs, mean_over_centers
from reproduce.experiments.cells import Plan, lesion_centers, make_cell
from reproduce.experiments.finished import find_folders

BASELINE, WHOLE = "BL", "Ours"
COARSE, FINE = "tumor_coarse", "tumor_fine"
SIGNIFICANT = 0.05
Values = dict[str, float]  # case id -> a number of its line in cases.csv


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
    seen: list[Path] = []  # result folders
    unseen: list[Path] = []
    for seed in seeds:
        for target in lesion_centers(centers):
            cell = make_cell(centers, FINE, target, method=TABLE5_METHODS[variant], seed=seed)
            folders = find_folders(plan, cell)
            if not folders:
                return None
            if target == center:
                unseen += folders
                continue
            folder = folders[0].parent / f"evaluation_{center}_{cell.roi_source}_heldout"
            if not (folder / "done").is_file():
                return None
            seen.append(folder)
    cases = sorted(read_values(seen[0], "dsc")) if seen else []
    if not cases:
        return None
    thresholds = {
        t for folder in (*seen, *unseen) for t in read_values(folder, "threshold").values()
    }
    of_target = [read_values(folder, "dsc") for folder in unseen]
    return Shift(
        center,
        mean_of_models([read_values(folder, "dsc") for folder in seen], cases, center),
        mean_of_models(
            [{c: d for c, d in part.items() if c in cases} for part in of_target], cases, center
        ),
        tuple(sorted(thresholds)),
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
            f"| {np.mean(shift.losses):+.2f}{interval_text([shift.losses])} | {len(shift.losses)} "
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
        f"| mean | {seen:.2f} | {unseen:.2f} | {seen - unseen:+.2f}{interval_text(losses)} "
        f"| {test.pairs} | |"
    )
    verb = "loses" if seen > unseen else "does not lose"
    lines.append(
        f"\n{variant} {verb} by the shift: {seen:.2f} where the center was seen, {unseen:.2f} "
        f"where it was not; {significance_text(test.p, test.pairs)}."
    )
    return "\n".join(lines) + "\n"


def read_values(folder: Path, column: str) -> Values:
    """A column of a result's cases.csv, of the cases that have it."""
    rows = read_cases(folder / "cases.csv")
    return {str(row["case_id"]): float(row[column]) for row in rows if column in row}


def mean_of_models(parts: Sequence[Values], cases: Sequence[str], center: str) -> np.ndarray:
    """Each case's mean (cases,). Raises ValueError where a model has not these cases."""
    if any(sorted(part) != list(cases) for part in parts):
        raise ValueError(
            f"{center}: its models held out or were evaluated on different cases; train and "
            "evaluate all of them with one --holdout"
        )
    return np.array([[part[name] for name in cases] for part in parts]).mean(axis=0)


def significance_text(p: float | None, pairs: int | None) -> str:
    """`p` in words, with the test and its pairs; p None: not tested."""
    if p is None:
        return "not tested"
    word = "significant" if p < SIGNIFICANT else "not significant"
    return f"{word} (Wilcoxon, p = {p:.2g}, {pairs} cases)"


def interval_text(samples: Sequence[np.ndarray]) -> str:
    """The 95 % bootstrap interval over cases, in brackets; nothing where there are too few."""
    interval = bootstrap_mean(samples)
    return "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]"
