"""Which of several settings is better on the sources: trials compared on the same held-out cases.

A setting is chosen on cases that no target center has a part in: held-out cases of the sources.
The unseen centers of a trial are shown beside them where its phantoms are not the benchmark's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reproduce.analysis.compare import MEAN, Line, Measured, make_line, measure
from reproduce.analysis.rows import ResultKey, Rows, read_facts, read_results
from utils.stages import STAGE_NAMES

SOURCES, UNSEEN = "held-out cases of the sources", "unseen centers"


@dataclass(frozen=True)
class Trial:
    """The exported cases of one setting."""

    name: str
    phantoms: str
    arguments: str
    rows: Rows


def read_trial(folder: Path) -> Trial:
    """The trial in `results/<name>/`. Raises ValueError or FileNotFoundError as `read_results`."""
    rows, facts = read_results(folder), read_facts(folder)
    given = [facts["arguments"], *facts["stage_arguments"].values()]
    given += facts["method_arguments"].values()
    return Trial(folder.name, str(facts["phantoms"]), " ".join(filter(None, given)), rows)


def compare_trials(
    trials: Sequence[Trial], method: str, reserved: str
) -> list[tuple[str, str, Line]]:
    """(what it was measured on, trial, the mean's line) for each trial, the first as the baseline.

    Held-out cases: of every split of the trial (target and source) and of its seeds. Unseen
    centers are left out where the trial has the phantoms `reserved`, on which nothing is chosen.
    Raises ValueError where the trials are of different phantoms, or one lacks what another has.
    """
    if len({trial.phantoms for trial in trials}) > 1:
        names = ", ".join(f"{trial.name}: {trial.phantoms}" for trial in trials)
        raise ValueError(f"these trials are of different phantoms, so not comparable: {names}")
    found = []
    for place in (SOURCES, UNSEEN):
        if place == UNSEEN and trials[0].phantoms == reserved:
            continue
        base: list[Measured] | None = None
        for trial in trials:
            parts = _parts(trial, method, place)
            line = make_line(("target", trial.name, MEAN, "dsc"), parts, base, None)
            if (line.note or "").startswith("cases differ"):
                raise ValueError(f"{trial.name}, {place}: {line.note}")
            found.append((place, trial.name, line))
            base = parts if base is None else base
    return found


def _parts(trial: Trial, method: str, place: str) -> list[Measured]:
    """What was measured, of each split: of each held-out source, or of the target.

    Of the trial's stage: a fine one has the coarse one before it too.
    """
    keys = [
        key
        for key in trial.rows.evaluations
        if (key.method, key.roi_source, key.threshold) == (method, "mask", "target")
    ]
    last = max((STAGE_NAMES.index(key.stage) for key in keys), default=0)
    keys = [key for key in keys if key.stage == STAGE_NAMES[last]]
    wanted = sorted(key for key in keys if bool(key.heldout) == (place == SOURCES))
    of_seeds: dict[ResultKey, list[ResultKey]] = {}
    for key in wanted:
        of_seeds.setdefault(replace(key, seed=0), []).append(key)
    counts = {len(same) for same in of_seeds.values()}
    if len(counts) != 1:
        raise ValueError(f"{trial.name}: {method} has not the same seeds of each split, {place}")
    measured = [
        measure([trial.rows.select(key) or () for key in same]) for same in of_seeds.values()
    ]
    return [part for part in measured if part is not None]


def choice_markdown(trials: Sequence[Trial], lines: Sequence[tuple[str, str, Line]]) -> str:
    """A table for each place; intervals over trainings and cases where there are several seeds."""
    arguments = {trial.name: trial.arguments or "the defaults" for trial in trials}
    text = [f"{trials[0].phantoms}. Dice (%), mean over the splits; minus: the first trial.", ""]
    text += ["| measured on | trial | settings | seeds | cases | DSC | minus | p, Wilcoxon |"]
    text += ["|" + " --- |" * 8]
    for place, name, line in lines:
        gain = "" if line.gain is None else _with_bounds(line)
        p = "" if line.p is None else f"{line.p:.3g}"
        cells = (place, name, arguments[name], line.seeds, line.cases, f"{line.ours:.2f}", gain, p)
        text.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(text) + "\n"


def _with_bounds(line: Line) -> str:
    cases = f"[{line.gain_low:.2f}, {line.gain_high:.2f}] over cases"
    if line.gain_low_trainings is None:
        return f"{line.gain:+.2f} {cases}"
    both = f"[{line.gain_low_trainings:.2f}, {line.gain_high_trainings:.2f}]"
    return f"{line.gain:+.2f} {cases}, {both} over trainings and cases"
