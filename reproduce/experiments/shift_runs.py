"""Trained rows on changed images of their target's cases: which changes, and the loop.

Each changed image is made once for all rows. Resumable: what a training has of a change, with the
same weights, is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data.case import Case, Center
from data.centers import load_centers
from data.dataset import target_mask
from data.phantom.centers import CENTERS
from data.phantom.redraw import DrawnCenters, read_drawn
from data.readers import list_cases, load_case
from data.shifts import (
    IMAGE_SHIFTS,
    PHANTOM_SHIFTS,
    UNCHANGED,
    ImageShift,
    PhantomShift,
    shift_case,
)
from engine.cascade import Prediction
from engine.inference import Predictor
from reproduce.analysis.line_files import cases_of
from reproduce.analysis.shift_cases import SHIFTS, ShiftedCase
from reproduce.experiments.plan import Plan
from reproduce.experiments.trained import (
    PANCREAS,
    TUMOR,
    Trained,
    by_target_and_seed,
    find_pancreas,
    find_tumor,
    load_stages,
    thresholds_of_row,
)
from utils.metrics import dsc
from utils.progress import Progress
from utils.stages import STAGES

MEASURED = (PANCREAS[-1], *TUMOR)
Found = list[tuple[str, str, float]]  # stage, case, Dice (%)


@dataclass(frozen=True)
class Unit:
    """One change of one strength; `value` is what the strength's text says."""

    change: str
    value: float | str = ""

    @property
    def strength(self) -> str:
        """As it stands in the results."""
        return self.value if isinstance(self.value, str) else f"{self.value:g}"


@dataclass(frozen=True)
class ShiftRequest:
    """What is to be measured; `cases`: at most so many of each target, None: all."""

    plan: Plan
    out: Path
    units: tuple[Unit, ...]
    cases: int | None = None
    device: str = "auto"
    drawn: DrawnCenters | None = None


def units_of(changes: Sequence[str] | None, synthetic: bool) -> tuple[Unit, ...]:
    """The unchanged image, and each change at three strengths; those of patients if `synthetic`.

    `changes`: None: all that there are. Raises ValueError for an unknown one, or one that needs
    synthetic centers where these are none.
    """
    kinds: dict[str, ImageShift | PhantomShift] = dict(IMAGE_SHIFTS)
    kinds |= PHANTOM_SHIFTS if synthetic else {}
    unknown = [name for name in changes or () if name not in kinds]
    if unknown:
        raise ValueError(
            f"--changes {', '.join(unknown)}: choose from {', '.join(kinds)}"
            + ("" if synthetic else f"; {', '.join(PHANTOM_SHIFTS)} need synthetic centers")
        )
    chosen = [(name, shift) for name, shift in kinds.items() if changes is None or name in changes]
    return (Unit(UNCHANGED), *(Unit(name, v) for name, shift in chosen for v in shift.strengths))


def measure_shifts(request: ShiftRequest, trained: Sequence[Trained]) -> None:
    """Compute what is missing, one target and seed after the other, and write it unit by unit."""
    centers = load_centers(request.plan.centers)
    for (target, seed), items in by_target_and_seed(trained).items():
        _measure_group(request, centers, f"{target}, seed {seed}", items)


@dataclass
class _Record:
    """What one training has so far, and its networks once they are needed."""

    trained: Trained
    path: Path
    weights: str
    cases: list[ShiftedCase] = field(default_factory=list)
    networks: dict[str, Predictor] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def lacks(self, unit: Unit, names: Iterable[str]) -> bool:
        there = cases_of(self.cases, change=unit.change, strength=unit.strength)
        return not set(names) <= there

    def add(self, unit: Unit, found: Found) -> None:
        """Replace what is there of a unit, and write the file."""
        kept = [c for c in self.cases if (c.change, c.strength) != (unit.change, unit.strength)]
        item = self.trained
        self.cases = kept + [
            ShiftedCase(
                item.method, item.row, item.target, item.seed, stage, unit.change, unit.strength,
                case_id, value, self.weights,
            )
            for stage, case_id, value in found
        ]  # fmt: skip
        SHIFTS.write(self.path, self.cases)


def _measure_group(
    request: ShiftRequest, centers: Mapping[str, Center], name: str, items: Sequence[Trained]
) -> None:
    """All rows of one target and seed: they share the pancreas stages and the changed images."""
    records = [_open_record(request.out, item) for item in items]
    center = centers[items[0].target]
    dropped = frozenset().union(*(item.dropped for item in items))
    names = _names_with_lesion(center, dropped, request.cases)
    todo = {unit: [r for r in records if r.lacks(unit, names)] for unit in request.units}
    total = sum(len(of_unit) for of_unit in todo.values()) * len(names)
    if not total:
        print(f"{name}: done already", flush=True)
        return
    pancreas = load_stages(items[0], PANCREAS, request.device)
    for record in {id(r): r for of_unit in todo.values() for r in of_unit}.values():
        record.networks = load_stages(record.trained, TUMOR, request.device)
        record.thresholds = thresholds_of_row(request.plan, centers, record.trained, "target")
    progress = Progress(name, total)
    for unit, of_unit in todo.items():
        found: list[Found] = [[] for _ in of_unit]
        for case in _changed_cases(request, center, names, unit) if of_unit else ():
            organ = find_pancreas(case, pancreas)
            of_pancreas = _measure(case, organ.results, MEASURED[:1])
            for record, of_record in zip(of_unit, found, strict=True):
                results = find_tumor(organ, record.networks, record.thresholds)
                of_record += of_pancreas + _measure(case, results, MEASURED[1:])
                progress.advance({"dsc": of_record[-1][2]})
        for record, of_record in zip(of_unit, found, strict=True):
            record.add(unit, of_record)
    progress.close()


def _measure(case: Case, results: Mapping[str, Prediction], stages: Sequence[str]) -> Found:
    """Dice of these stages."""
    label = case.label
    assert label is not None
    return [
        (stage, case.case_id, dsc(results[stage].mask, target_mask(label, STAGES[stage].target)))
        for stage in stages
    ]


def _changed_cases(
    request: ShiftRequest, center: Center, names: Sequence[str], unit: Unit
) -> Iterable[Case]:
    """The cases under a change, one after the other."""
    files = {f.case_id: f for f in list_cases(center)}
    for name in names:
        if unit.change in PHANTOM_SHIFTS:
            assert request.drawn is not None
            own = request.drawn.center(center.name)
            # of these all have a lesion: what is compared is the same patient's
            own = replace(own, lesions=replace(own.lesions, free_share=0.0))  # type: ignore[type-var]
            changed = PHANTOM_SHIFTS[unit.change].make(own, unit.value)
            yield request.drawn.redraw(center.name, name, changed)
            continue
        case = load_case(center, files[name])
        yield case if unit.change == UNCHANGED else shift_case(case, unit.change, float(unit.value))


def _names_with_lesion(center: Center, dropped: frozenset[str], most: int | None) -> list[str]:
    """The first `most` cases whose label has a lesion. Raises ValueError where there is none."""
    names: list[str] = []
    for files in list_cases(center):
        if most is not None and len(names) == most:
            break
        label = load_case(center, files).label
        if files.case_id not in dropped and label is not None and target_mask(label, "tumor").any():
            names.append(files.case_id)
    if not names:
        raise ValueError(f"{center.name}: no case has a label with a lesion, so no Dice is known")
    return names


def _open_record(out: Path, item: Trained) -> _Record:
    """What a training has; of other weights nothing is kept."""
    path, weights = SHIFTS.path(out, item.method, item.target, item.seed), item.weights
    kept = [case for case in SHIFTS.read(path) if case.weights == weights]
    return _Record(item, path, weights, kept)


def drawn_centers(plan: Plan, targets: Sequence[str]) -> DrawnCenters | None:
    """How the targets were drawn; None where one of them is no synthetic center."""
    return read_drawn(plan.centers) if all(target in CENTERS for target in targets) else None
