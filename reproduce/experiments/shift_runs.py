"""Trained rows on changed images of their target's cases: whose runs, which changes, and the loop.

Resumable: what a training has of a change, with the same weights, is not computed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

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
from data.splits import CaseName
from engine.cascade import Prediction, mask_box, segment
from engine.inference import Predictor, load_predictor
from reproduce.analysis.shift_cases import (
    ShiftedCase,
    case_path,
    cases_of_unit,
    read_file,
    write_file,
)
from reproduce.experiments.cells import TRAIN, make_cell, steps_of
from reproduce.experiments.finished import find_run
from reproduce.experiments.plan import Plan
from utils.files import sha256_of
from utils.metrics import dsc
from utils.progress import Progress
from utils.stages import STAGES

MEASURED = ("pancreas_fine", "tumor_coarse", "tumor_fine")
DIGEST_LETTERS = 12


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
class Trained:
    """The four trained stages of one row, target and seed."""

    row: str
    method: str
    target: str
    seed: int
    checkpoints: Mapping[str, Path]
    dropped: frozenset[str] = frozenset()  # cases of the target that are duplicates of others

    @property
    def weights(self) -> str:
        """A digest that changes with any of the four."""
        return sha256_of(*self.checkpoints.values())[:DIGEST_LETTERS]


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


def find_trained(
    plan: Plan,
    centers: Mapping[str, Center],
    rows: Mapping[str, str],
    targets: Sequence[str],
    seeds: Sequence[int],
) -> tuple[list[Trained], list[str]]:
    """The rows (row -> method) whose four trainings are finished, and the names of the others."""
    found, missing = [], []
    for target in targets:
        for seed in seeds:
            for row, method in rows.items():
                cell = make_cell(centers, "tumor_fine", target, method=method, seed=seed)
                steps = [step for step in steps_of(plan, cell) if step.kind == TRAIN]
                runs = {step.stage: find_run(step) for step in steps}
                done = {stage: run for stage, run in runs.items() if run is not None and run.done}
                if len(done) < len(STAGES):
                    missing.append(f"{row}, {target}, seed {seed}")
                    continue
                paths = {stage: done[stage].checkpoint for stage in STAGES}
                every = frozenset[CaseName]().union(*(run.dropped_cases for run in done.values()))
                dropped = frozenset(case_id for center, case_id in every if center == target)
                found.append(Trained(row, method, target, seed, paths, dropped))
    return found, missing


def measure_shifts(request: ShiftRequest, trained: Sequence[Trained]) -> None:
    """Compute what is missing, one target and seed after the other, and write it unit by unit."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for item in trained:
        groups.setdefault((item.target, item.seed), []).append(item)
    for (target, seed), items in groups.items():
        _measure_group(request, target, seed, items)


@dataclass
class _Record:
    """What one training has so far."""

    trained: Trained
    path: Path
    weights: str
    cases: list[ShiftedCase] = field(default_factory=list)

    def lacks(self, unit: Unit, names: Iterable[str]) -> bool:
        return not set(names) <= cases_of_unit(self.cases, unit.change, unit.strength)

    def add(self, unit: Unit, found: Sequence[tuple[str, str, float]]) -> None:
        """Replace what is there of a unit by (stage, case, Dice), and write the file."""
        kept = [c for c in self.cases if (c.change, c.strength) != (unit.change, unit.strength)]
        item = self.trained
        self.cases = kept + [
            ShiftedCase(
                item.method, item.row, item.target, item.seed, stage, unit.change, unit.strength,
                case_id, value, self.weights,
            )
            for stage, case_id, value in found
        ]  # fmt: skip
        write_file(self.path, self.cases)


def _measure_group(request: ShiftRequest, target: str, seed: int, items: Sequence[Trained]) -> None:
    """All rows of one target and seed: they share the pancreas stages and the changed images."""
    records = [_open_record(request.out, item) for item in items]
    center = _center_of(request.plan, target)
    dropped = frozenset().union(*(item.dropped for item in items))
    names = _names_with_lesion(center, dropped, request.cases)
    todo = {unit: [r for r in records if r.lacks(unit, names)] for unit in request.units}
    total = sum(len(of_unit) for of_unit in todo.values()) * len(names)
    if not total:
        print(f"{target}, seed {seed}: done already", flush=True)
        return
    used = [record for record in records if any(record in of_unit for of_unit in todo.values())]
    stages = {r.trained.method: _load(r.trained, request.device, "tumor") for r in used}
    pancreas = _load(used[0].trained, request.device, "pancreas")
    progress = Progress(f"{target}, seed {seed}", total)
    for unit, of_unit in todo.items():
        found: dict[str, list[tuple[str, str, float]]] = {r.trained.method: [] for r in of_unit}
        for case in _changed_cases(request, center, names, unit) if of_unit else ():
            organ = segment(case, pancreas)
            for record in of_unit:
                method = record.trained.method
                results = _segment_tumor(case, organ, pancreas, stages[method], center)
                found[method] += _measure(case, {**organ, **results})
                progress.advance({"dsc": found[method][-1][2]})
        for record in of_unit:
            record.add(unit, found[record.trained.method])
    progress.close()


def _measure(case: Case, results: Mapping[str, Prediction]) -> list[tuple[str, str, float]]:
    """(stage, case, Dice); the last is the fine tumor stage's."""
    label = case.label
    assert label is not None
    return [
        (stage, case.case_id, dsc(results[stage].mask, target_mask(label, STAGES[stage].target)))
        for stage in MEASURED
    ]


def _segment_tumor(
    case: Case,
    organ: Mapping[str, Prediction],
    pancreas: Mapping[str, Predictor],
    tumor: Mapping[str, Predictor],
    center: Center,
) -> dict[str, Prediction]:
    """Both tumor stages around the pancreas that was found, as the whole cascade gives them.

    Where nothing was found the whole cascade runs: it knows what to fall back on.
    """
    fine = organ["pancreas_fine"]
    thresholds = MappingProxyType({})  # type: ignore[var-annotated]
    if center.tumor_threshold is not None:
        thresholds = MappingProxyType(dict.fromkeys(tumor, center.tumor_threshold))
    if mask_box(fine.mask, fine.prepared) is None:
        return segment(case, {**pancreas, **tumor}, thresholds=thresholds)
    return segment(case, tumor, roi=fine.mask, thresholds=thresholds)


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
    path, weights = case_path(out, item.method, item.target, item.seed), item.weights
    kept = [case for case in read_file(path) if case.weights == weights]
    return _Record(item, path, weights, kept)


def _load(item: Trained, device: str, target: str) -> dict[str, Predictor]:
    return {
        stage: load_predictor(path, device, stage=stage)
        for stage, path in item.checkpoints.items()
        if STAGES[stage].target == target
    }


def _center_of(plan: Plan, target: str) -> Center:
    return load_centers(plan.centers)[target]


def drawn_centers(plan: Plan, targets: Sequence[str]) -> DrawnCenters | None:
    """How the targets were drawn; None where one of them is no synthetic center."""
    return read_drawn(plan.centers) if all(target in CENTERS for target in targets) else None
