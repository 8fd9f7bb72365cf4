"""Snapshots of finished trainings, measured on held-out source cases and on the unseen center's.

After the training: nothing that is measured here can decide anything in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.case import Center
from data.centers import load_centers
from data.prepare.prepare_centers import prepare_centers
from data.prepare.prepared_case import PreparedCase, PrepareSettings
from engine.checkpointing import SNAPSHOTS
from engine.early_stopping import can_measure, dice_around_label, without_mirrors
from engine.inference import Predictor, load_predictor
from engine.run_folders import Run
from reproduce.analysis.curves import CURVES, CurvePoint, curve_path
from reproduce.experiments.cells import TRAIN, make_cell, steps_of
from reproduce.experiments.finished import find_run
from reproduce.experiments.plan import Plan
from reproduce.experiments.trained import DIGEST_LETTERS
from utils.files import sha256_of
from utils.progress import Progress


@dataclass(frozen=True)
class CurveRequest:
    """Whose snapshots: of `rows` (row -> method) at one stage. `cases`: at most so many of each
    center, None: all."""

    plan: Plan
    out: Path
    stage: str
    rows: dict[str, str]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    cases: int | None = None
    device: str = "auto"


def measure_curves(request: CurveRequest) -> list[str]:
    """Measure what is missing and write a file for each training; the names of those not found.

    What is there already of the same weights is not measured again, so a killed call resumes.
    """
    centers = load_centers(request.plan.centers)
    missing = []
    for target in request.targets:
        for seed in request.seeds:
            for row, method in request.rows.items():
                cell = make_cell(centers, request.stage, target, method=method, seed=seed)
                step = next(
                    step
                    for step in steps_of(request.plan, cell)
                    if step.kind == TRAIN and step.stage == request.stage
                )
                run = find_run(step)
                files = {} if run is None or not run.done else snapshots_of(run)
                if run is None or not files:
                    missing.append(f"{row}, {target}, seed {seed}")
                    continue
                _measure_run(request, row, run, files, centers)
    return missing


def snapshots_of(run: Run) -> dict[int, Path]:
    """The snapshots of a run by epoch, in order."""
    found = {}
    for path in (run.folder / SNAPSHOTS).glob("epoch_*.pt"):
        number = re.fullmatch(r"epoch_(\d+)\.pt", path.name)
        if number:
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def _measure_run(
    request: CurveRequest, row: str, run: Run, files: dict[int, Path], centers: dict[str, Center]
) -> None:
    seed = int(run.seed or 0)
    path = curve_path(request.out, run.method, request.stage, str(run.target), seed)
    points = CURVES.read(path)
    cases: dict[str, list[PreparedCase]] | None = None
    progress = Progress(f"{row}, {run.target}, seed {run.seed}", len(files))
    for epoch, file in files.items():
        weights = sha256_of(file)[:DIGEST_LETTERS]
        if not any(p.epoch == epoch and p.weights == weights for p in points):
            predictor = load_predictor(file, request.device, stage=request.stage)
            predictor = replace(predictor, config=without_mirrors(predictor.config))
            cases = _cases_of(request, run, predictor, centers) if cases is None else cases
            found = [
                CurvePoint(
                    run.method, row, request.stage, str(run.target), seed, epoch,
                    kind, case.center, case.case_id,
                    dice_around_label(predictor, case, number), weights,
                )
                for kind, of_kind in cases.items()
                for number, case in enumerate(of_kind)
            ]  # fmt: skip
            points = [p for p in points if p.epoch != epoch] + found
            CURVES.write(path, points)
        progress.advance({})
    progress.close()


def _cases_of(
    request: CurveRequest, run: Run, predictor: Predictor, centers: dict[str, Center]
) -> dict[str, list[PreparedCase]]:
    """The run's held-out cases and its unseen center's, with a label that has the target in it."""
    names = [*run.sources, str(run.target)]
    settings = PrepareSettings(spacing=predictor.config.spacing)
    prepared = prepare_centers([centers[name] for name in names], request.plan.cache, settings)
    every = [case for name in names for case in prepared[name]]
    usable = [case for case in every if can_measure(case, predictor.stage)]
    chosen = {"heldout": run.heldout_cases, "test": run.test_cases}
    return {
        kind: _first([c for c in usable if (c.center, c.case_id) in of_kind], request.cases)
        for kind, of_kind in chosen.items()
    }


def _first(cases: Sequence[PreparedCase], most: int | None) -> list[PreparedCase]:
    """The first `most` cases of each center."""
    taken: dict[str, int] = {}
    kept = []
    for case in cases:
        taken[case.center] = taken.get(case.center, 0) + 1
        if most is None or taken[case.center] <= most:
            kept.append(case)
    return kept
