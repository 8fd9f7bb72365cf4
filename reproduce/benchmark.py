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
from reproduce.stats import bootstrap_mean, mean_over_centers
from reproduce.tables import Report
from utils.evaluation import read_cases
from utils.stages import VARIANTS

STAGE, BASELINE, WHOLE = "tumor_fine", "BL", "Ours"
CLAIM_DSC = 9.51  # Table V: Ours - BL, mean over the centers, Dice points
SIGNIFICANT = 0.05
Dice = dict[str, float]  # case id -> percent
MODULES = tuple(row for row in VARIANTS if row not in (BASELINE, WHOLE))


@dataclass(frozen=True)
class Shift:
    """A model's Dice (%) on held-out cases of its source centers and on an unseen center.

    One value per case, its mean over the seeds; `seen` by source center. `thresholds`: of both.
    """

    target: str
    seen: Mapping[str, np.ndarray]
    unseen: np.ndarray
    thresholds: tuple[float, ...] = ()

    @property
    def seen_mean(self) -> float:
        """Mean over the cases of each source center, then over these centers."""
        return mean_over_centers(list(self.seen.values()))

    @property
    def loss(self) -> float:
        """Dice points that the model loses from seen to unseen; positive where it loses."""
        return self.seen_mean - float(np.mean(self.unseen))


def measure_shift(
    plan: Plan, centers: Mapping[str, Center], target: str, seeds: Sequence[int], variant: str
) -> Shift | None:
    """Seen against unseen Dice of a row of Table V.

    Seen: the result folders of the protocol `heldout`; unseen: those of the protocol `paper`, which
    has the same threshold where centers.toml gives none. None where one is missing for any seed.
    """
    seen: dict[str, list[Dice]] = {}
    unseen: list[Dice] = []
    thresholds: set[float] = set()
    for seed in seeds:
        cell = make_cell(centers, STAGE, target, variant=variant, seed=seed)
        folders = find_folders(plan, cell)
        if not folders:
            return None
        unseen.append(_read_dice(folders[0], thresholds))
        for name in cell.sources:
            folder = folders[0].parent / f"evaluation_{name}_{cell.roi_source}_heldout"
            if not (folder / "done").is_file():
                return None
            seen.setdefault(name, []).append(_read_dice(folder, thresholds))
    return Shift(
        target,
        {name: _mean_of_seeds(parts) for name, parts in seen.items()},
        _mean_of_seeds(unseen),
        tuple(sorted(thresholds)),
    )


def measure_shifts(
    plan: Plan,
    centers: Mapping[str, Center],
    seeds: Sequence[int],
    targets: Sequence[str] | None = None,
) -> dict[str, dict[str, Shift | None]]:
    """For BL and Ours the shift to each target in turn (None: all centers with lesions)."""
    return {
        variant: {
            target: measure_shift(plan, centers, target, seeds, variant)
            for target in (lesion_centers(centers) if targets is None else targets)
        }
        for variant in (BASELINE, WHOLE)
    }


def benchmark_markdown(
    shifts: Mapping[str, Mapping[str, Shift | None]], report: Report, facts: Sequence[str]
) -> str:
    """The whole report: what made it, the shift, the verdict, Table V."""
    return "\n".join(
        [
            "# Generalization benchmark on synthetic centers\n",
            "\n".join(facts) + "\n",
            *(shift_markdown(variant, of_variant) for variant, of_variant in shifts.items()),
            verdict_markdown(report.lines),
            report.markdown,
        ]
    )


def shift_markdown(variant: str, shifts: Mapping[str, Shift | None]) -> str:
    """What the shift costs a row: held-out cases of seen centers against the unseen center."""
    lines = [
        f"## What the shift costs {variant}\n",
        "Dice (%), fine tumor stage, pancreas from the segmentation; a case's value is its mean "
        "over the seeds. Seen: cases of the source centers that were held out of training. Unseen: "
        "the target center, with its 95 % bootstrap interval.\n",
        "| unseen center | seen centers | unseen | loss | cases seen, unseen | thresholds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for target, shift in shifts.items():
        if shift is None:
            lines.append(f"| {target} | - | - | - | - | - |")
            continue
        seen = ", ".join(f"{name} {np.mean(dsc):.2f}" for name, dsc in shift.seen.items())
        lines.append(
            f"| {target} | {shift.seen_mean:.2f} ({seen}) | {np.mean(shift.unseen):.2f}"
            f"{_interval(shift.unseen)} | {shift.loss:+.2f} "
            f"| {sum(map(len, shift.seen.values()))}, {len(shift.unseen)} "
            f"| {' '.join(f'{t:g}' for t in shift.thresholds)} |"
        )
    there = [shift for shift in shifts.values() if shift is not None]
    if not there or len(there) < len(shifts):
        return "\n".join([*lines, "\nNot every cell is there yet."]) + "\n"
    seen_mean = float(np.mean([shift.seen_mean for shift in there]))
    unseen = mean_over_centers([shift.unseen for shift in there])
    lines.append(f"| mean | {seen_mean:.2f} | {unseen:.2f} | {seen_mean - unseen:+.2f} | | |")
    verb = "loses" if seen_mean > unseen else "does not lose"
    lines.append(
        f"\n{variant} {verb} by the shift: {seen_mean:.2f} on seen centers, {unseen:.2f} on unseen "
        "ones."
    )
    return "\n".join(lines) + "\n"


def verdict_markdown(lines: Sequence[Line]) -> str:
    """Whether the paper's claim comes out: one sentence for each part of it and protocol."""
    found = {(line.protocol, line.row, line.metric): line for line in lines if line.center == MEAN}
    parts = ["## The paper's claim\n"]
    for protocol in dict.fromkeys(line.protocol for line in lines):
        whole = {metric: found.get((protocol, WHOLE, metric)) for metric in METRICS}
        modules = {row: found.get((protocol, row, "dsc")) for row in MODULES}
        if any(line is None or line.gain is None for line in (*whole.values(), *modules.values())):
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
        f"+{CLAIM_DSC}; {_significance(dsc)}."
    ]
    for metric in ("asd_mm", "hd95_mm"):
        line = whole[metric]
        assert line is not None
        assert line.gain is not None
        lower = "lower" if line.gain < 0 else "not lower"
        sentences.append(
            f"{METRICS[metric]} of {WHOLE} is {lower}: {_signed(line)} mm; {_significance(line)}."
        )
    shown = [f"{row} {_signed(line)}" for row, line in modules.items() if line is not None]
    each = all(line is not None and line.gain is not None and line.gain > 0
               for line in modules.values())  # fmt: skip
    adds = "each module alone adds something" if each else "not every module alone adds something"
    sentences.append(f"{adds}, Dice points over {BASELINE}: {', '.join(shown)}.")
    return sentences


def _signed(line: Line) -> str:
    if line.gain_low is None or line.gain_high is None:
        return f"{line.gain:+.2f}"
    return f"{line.gain:+.2f} [{line.gain_low:.2f}, {line.gain_high:.2f}]"


def _significance(line: Line) -> str:
    if line.p is None:
        return "not tested"
    word = "significant" if line.p < SIGNIFICANT else "not significant"
    return f"{word} (Wilcoxon, p = {line.p:.2g}, {line.pairs} cases)"


def _interval(dsc: np.ndarray) -> str:
    interval = bootstrap_mean([dsc])
    return "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]"


def _read_dice(folder: Path, thresholds: set[float]) -> Dice:
    """Dice of each case with a label; the cases' thresholds are added to `thresholds`."""
    rows = read_cases(folder / "cases.csv")
    thresholds.update(row["threshold"] for row in rows if "threshold" in row)
    return {str(row["case_id"]): float(row["dsc"]) for row in rows if "dsc" in row}


def _mean_of_seeds(parts: Sequence[Dice]) -> np.ndarray:
    """Each case's mean (cases,). Raises ValueError where the seeds' cases differ."""
    ids = sorted(parts[0])
    if any(sorted(part) != ids for part in parts):
        raise ValueError("the seeds were evaluated on different cases; evaluate them again")
    return np.array([[part[name] for name in ids] for part in parts]).mean(axis=0)
