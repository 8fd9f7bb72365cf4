"""What each row loses under each change of the image: paired by case, table and heat map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from data.shifts import IMAGE_SHIFTS, PHANTOM_SHIFTS, UNCHANGED, ImageShift, PhantomShift
from reproduce.analysis.compare import MEAN
from reproduce.analysis.figures import PAGE_IN, SMALL_PT
from reproduce.analysis.paper_tables import order_rows
from reproduce.analysis.pyplot import import_pyplot
from reproduce.analysis.render import Group, Sheet, to_csv, to_markdown
from reproduce.analysis.shift_cases import ShiftedCase
from reproduce.analysis.stats import bootstrap_mean, bootstrap_trainings, mean_over_centers

TITLE = "Which method for which shift"
LEGEND = (
    "Dice points that a row loses when the image of the same cases is changed in one known way, "
    "by the same trained networks; negative: it gains. Mean over cases (each case's over the "
    "seeds), then over the unseen centers. In brackets the 95 % bootstrap interval: over trainings "
    "and cases, or, where a row has one training for a center, over cases (marked *)."
)
LARGEST_POINTS = 30.0  # of the heat map's colors; what is beyond has the last one
Key = tuple[str, str]  # change, strength
PLAIN: Key = (UNCHANGED, "")
SHIFTS: Mapping[str, ImageShift | PhantomShift] = {**IMAGE_SHIFTS, **PHANTOM_SHIFTS}
Dice = Mapping[tuple[int, str], float]  # seed and case -> Dice
ByPlace = dict[tuple[str, str, Key], dict[tuple[int, str], float]]  # row, center, change -> Dice


@dataclass(frozen=True)
class Loss:
    """One row under one change on one center, or the mean over centers; Dice in percent.

    `loss`: unchanged minus changed of the same cases and seeds; its intervals over cases, and over
    trainings and cases (None: one training).
    """

    stage: str
    row: str
    change: str
    strength: str
    center: str
    unchanged: float
    changed: float
    loss: float
    low: float | None
    high: float | None
    low_trainings: float | None
    high_trainings: float | None
    cases: int
    seeds: int


LOSS_COLUMNS = tuple(item.name for item in fields(Loss))


@dataclass(frozen=True)
class ShiftMatrix:
    """The losses of every row (in the order of Tables V and VI) and change (of data/shifts.py).

    `missing`: what is not there, in words.
    """

    stage: str
    rows: tuple[str, ...]
    keys: tuple[Key, ...]
    centers: tuple[str, ...]
    losses: tuple[Loss, ...]
    missing: tuple[str, ...]

    def mean(self, row: str, key: Key) -> Loss | None:
        """The mean over centers; None where a center is missing."""
        return self._index.get((row, *key, MEAN))

    @property
    def _index(self) -> dict[tuple[str, str, str, str], Loss]:
        return {(x.row, x.change, x.strength, x.center): x for x in self.losses}

    @property
    def csv(self) -> str:
        """A line per number: each center's, and the means."""
        return to_csv(LOSS_COLUMNS, [asdict(loss) for loss in self.losses])


def make_matrix(
    cases: Sequence[ShiftedCase], stage: str = "tumor_fine", targets: Sequence[str] | None = None
) -> ShiftMatrix:
    """What every row loses under every change, of the given stage.

    `targets`: the centers (None: all that there are); a row that lacks one has no mean. Raises
    ValueError where there is nothing of them.
    """
    chosen = [c for c in cases if c.stage == stage and (targets is None or c.target in targets)]
    if not chosen:
        raise ValueError(f"no {stage} of {' '.join(targets or ('any center',))} is there")
    centers = tuple(dict.fromkeys(targets or sorted({c.target for c in chosen})))
    rows = order_rows(case.row for case in chosen)
    dice = by_place(chosen)
    keys = _order({place[2] for place in dice} - {PLAIN})
    losses, missing = [], []
    for row in rows:
        for key in keys:
            pairs = {
                center: pair_cases(dice.get((row, center, PLAIN)), dice.get((row, center, key)))
                for center in centers
            }
            there = {c: pair for c, pair in pairs.items() if pair is not None}
            losses += [_loss(stage, row, key, c, [pair]) for c, pair in there.items()]
            if len(there) == len(centers):
                losses.append(_loss(stage, row, key, MEAN, list(there.values())))
            else:
                lacking = ", ".join(c for c in centers if c not in there)
                missing.append(f"{row}, {show_key(key)}: {lacking}")
    return ShiftMatrix(stage, rows, keys, centers, tuple(losses), tuple(missing))


def show_key(key: Key) -> str:
    """A change with its strength and unit: "softer kernel 3.5 mm"."""
    shift = SHIFTS.get(key[0])
    unit = "" if shift is None else shift.unit
    return " ".join(part for part in (*key, unit) if part)


def matrix_markdown(matrix: ShiftMatrix, notes: Sequence[str] = ()) -> str:
    """The losses, who stands each change best, and what is missing."""
    of_rows = {row: [matrix.mean(row, key) for key in matrix.keys] for row in matrix.rows}
    unchanged = ["Dice (%), unchanged"]
    for losses in of_rows.values():
        first = next((loss for loss in losses if loss is not None), None)
        unchanged.append("-" if first is None else f"{first.unchanged:.2f}")
    lines = tuple(
        (show_key(key), *map(_show, of_key))
        for key, of_key in zip(matrix.keys, zip(*of_rows.values(), strict=True), strict=True)
    )
    sheet = Sheet(
        f"Loss by change, {matrix.stage.replace('_', ' ')}, {', '.join(matrix.centers)}",
        ("", *matrix.rows),
        (Group("", (tuple(unchanged),)), Group("loses", lines)),
    )
    best = Sheet(
        "Of each change, mean over its strengths",
        ("", "highest Dice under it", "smallest loss"),
        (Group("", tuple(best_rows(matrix))),),
    )
    said = [LEGEND, *notes, *(f"Missing: {text}." for text in matrix.missing)]
    parts = [f"## {TITLE}\n", to_markdown(sheet), to_markdown(best)]
    return "\n".join([*parts, *(f"- {note}" for note in said)]) + "\n"


def best_rows(matrix: ShiftMatrix) -> list[tuple[str, str, str]]:
    """Change, the row of the highest Dice under it, the one that loses least; of complete rows."""
    found = []
    for change in dict.fromkeys(change for change, _ in matrix.keys):
        keys = [key for key in matrix.keys if key[0] == change]
        whole: dict[str, list[Loss]] = {}
        for row in matrix.rows:
            there = [loss for key in keys if (loss := matrix.mean(row, key)) is not None]
            if len(there) == len(keys):
                whole[row] = there
        if not whole:
            found.append((change, "-", "-"))
            continue
        dice = {row: float(np.mean([m.changed for m in of_row])) for row, of_row in whole.items()}
        lost = {row: float(np.mean([m.loss for m in of_row])) for row, of_row in whole.items()}
        best, least = max(dice, key=dice.__getitem__), min(lost, key=lost.__getitem__)
        found.append((change, f"{best} ({dice[best]:.2f})", f"{least} ({lost[least]:+.2f})"))
    return found


def draw_heat_map(matrix: ShiftMatrix) -> Figure:
    """Rows by changes, colored by the mean loss; a cell without one is gray."""
    from matplotlib.colors import TwoSlopeNorm

    values = np.array(
        [
            [np.nan if (m := matrix.mean(row, key)) is None else m.loss for key in matrix.keys]
            for row in matrix.rows
        ]
    )
    figure, axis = import_pyplot().subplots(
        figsize=(PAGE_IN, 0.2 * len(matrix.rows) + 2.4), layout="constrained"
    )
    axis.set_facecolor("0.8")
    largest = min(max(float(np.nanmax(np.abs(values), initial=1.0)), 1.0), LARGEST_POINTS)
    norm = TwoSlopeNorm(0.0, -largest, largest)
    image = axis.imshow(values, cmap="RdBu_r", norm=norm, aspect="auto")
    axis.set_yticks(range(len(matrix.rows)), matrix.rows)
    axis.set_xticks(range(len(matrix.keys)), [show_key(key) for key in matrix.keys], rotation=90)
    axis.tick_params(labelsize=SMALL_PT, length=0)
    changes = [change for change, _ in matrix.keys]
    for place in range(1, len(changes)):
        if changes[place] != changes[place - 1]:
            axis.axvline(place - 0.5, color="black", linewidth=0.6)
    bar = figure.colorbar(image, ax=axis, extend="both", pad=0.01)
    bar.set_label("Dice points lost", fontsize=SMALL_PT)
    return figure


def by_place(cases: Iterable[ShiftedCase]) -> ByPlace:
    """Dice by row, center and change."""
    dice: ByPlace = {}
    for case in cases:
        place = (case.row, case.target, (case.change, case.strength))
        dice.setdefault(place, {})[case.seed, case.case_id] = case.dsc
    return dice


def _order(keys: set[Key]) -> tuple[Key, ...]:
    """By the order of data/shifts.py; others, of another version, behind."""
    known = [
        (change, strength if isinstance(strength, str) else f"{strength:g}")
        for change, shift in SHIFTS.items()
        for strength in shift.strengths
    ]
    return (*(key for key in known if key in keys), *sorted(keys - set(known)))


def pair_cases(before: Dice | None, after: Dice | None) -> tuple[np.ndarray, np.ndarray] | None:
    """(seeds, cases) of both, of the seeds and cases that both have; None where there are none."""
    if before is None or after is None:
        return None
    places = before.keys() & after.keys()
    seeds = sorted({seed for seed, _ in places})
    names = [n for n in sorted({n for _, n in places}) if all((s, n) in places for s in seeds)]
    if not names:
        return None
    first, second = (
        np.array([[dice[seed, name] for name in names] for seed in seeds])
        for dice in (before, after)
    )
    return first, second


def _loss(
    stage: str, row: str, key: Key, center: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Loss:
    lost = [before - after for before, after in pairs]
    of_cases = bootstrap_mean([sample.mean(axis=0) for sample in lost])
    of_trainings = bootstrap_trainings(lost)
    low, high = (None, None) if of_cases is None else (of_cases.low, of_cases.high)
    return Loss(
        stage=stage,
        row=row,
        change=key[0],
        strength=key[1],
        center=center,
        unchanged=mean_over_centers([before for before, _ in pairs]),
        changed=mean_over_centers([after for _, after in pairs]),
        loss=mean_over_centers(lost),
        low=low,
        high=high,
        low_trainings=None if of_trainings is None else of_trainings.low,
        high_trainings=None if of_trainings is None else of_trainings.high,
        cases=sum(sample.shape[1] for sample in lost),
        seeds=min(len(sample) for sample in lost),
    )


def _show(loss: Loss | None) -> str:
    if loss is None:
        return "-"
    text = f"{loss.loss:+.2f}"
    if loss.low_trainings is not None:
        return f"{text} [{loss.low_trainings:.2f}, {loss.high_trainings:.2f}]"
    return text if loss.low is None else f"{text} [{loss.low:.2f}, {loss.high:.2f}]*"
