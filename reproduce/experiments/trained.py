"""Trained rows that predict more than their evaluations: whose runs, and the cascade they share.

All rows of one target and seed have the same pancreas stages, which predict an image once for all
of them; the image is prepared once, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from data.case import Case, Center, Triple
from data.prepare.prepared_case import PreparedCase
from data.roi import Box
from data.splits import CaseName
from engine.cascade import Earlier, Prediction, find_earlier, segment, segment_stage
from engine.evaluation import choose_threshold
from engine.inference import Predictor, load_predictor
from engine.run_folders import Run
from reproduce.experiments.cells import TRAIN, Cell, evaluations_of, make_cell, steps_of
from reproduce.experiments.finished import find_run
from reproduce.experiments.plan import Plan
from utils.files import sha256_of
from utils.stages import STAGES

PANCREAS = tuple(name for name, stage in STAGES.items() if stage.target == "pancreas")
TUMOR = tuple(name for name, stage in STAGES.items() if stage.target == "tumor")
DIGEST_LETTERS = 12


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
                cell = make_cell(centers, TUMOR[-1], target, method=method, seed=seed)
                runs = _finished_runs(plan, cell)
                if len(runs) < len(STAGES):
                    missing.append(f"{row}, {target}, seed {seed}")
                    continue
                paths = {stage: runs[stage].checkpoint for stage in STAGES}
                every = frozenset[CaseName]().union(*(run.dropped_cases for run in runs.values()))
                dropped = frozenset(case_id for center, case_id in every if center == target)
                found.append(Trained(row, method, target, seed, paths, dropped))
    return found, missing


def by_target_and_seed(trained: Sequence[Trained]) -> dict[tuple[str, int], list[Trained]]:
    """The rows that share their pancreas stages."""
    groups: dict[tuple[str, int], list[Trained]] = {}
    for item in trained:
        groups.setdefault((item.target, item.seed), []).append(item)
    return groups


def thresholds_of_row(
    plan: Plan, centers: Mapping[str, Center], item: Trained, choice: str
) -> dict[str, float]:
    """The threshold of each tumor stage as its evaluation has it; `choice`: how it is chosen.

    Raises FileNotFoundError, with the command to give, where `source-val` needs held-out cases that
    are not predicted.
    """
    found = {}
    for stage in TUMOR:
        more = {"method": item.method, "seed": item.seed, "threshold": choice}
        (step,) = evaluations_of(plan, make_cell(centers, stage, item.target, **more))
        run = find_run(step)
        assert run is not None  # `find_trained` has found it
        config, center = step.training.config, centers[item.target]
        found[stage] = choose_threshold(step.evaluation, run, config.stage, center)
    return found


def load_stages(item: Trained, stages: Sequence[str], device: str) -> dict[str, Predictor]:
    """The predictors of these stages."""
    return {name: load_predictor(item.checkpoints[name], device, stage=name) for name in stages}


@dataclass(frozen=True)
class Organ:
    """The pancreas that was found in a case, from which each row's tumor stages start."""

    case: Case = field(repr=False)
    predictors: Mapping[str, Predictor]
    results: Mapping[str, Prediction]

    @property
    def prepared(self) -> PreparedCase:
        """The case on the grid of the pancreas stages."""
        return self.results[PANCREAS[-1]].prepared

    @property
    def spacing(self) -> Triple:
        """Of that grid, mm (z, y, x)."""
        return self.predictors[PANCREAS[-1]].config.spacing

    @cached_property
    def earlier(self) -> list[Earlier]:
        """Where the pancreas lies on that grid, nearest stage first."""
        return self._earlier_on(self.prepared)

    def box_on(self, prepared: PreparedCase) -> Box | None:
        """Where it lies on a prepared grid; None where neither stage found it."""
        known = prepared is self.prepared
        return (self.earlier if known else self._earlier_on(prepared))[-1][1]

    def _earlier_on(self, prepared: PreparedCase) -> list[Earlier]:
        masks = [(name, self.results[name].mask) for name in reversed(PANCREAS)]
        return find_earlier(masks, prepared)


def find_pancreas(case: Case, predictors: Mapping[str, Predictor]) -> Organ:
    """Both pancreas stages on one case."""
    return Organ(case, predictors, segment(case, predictors))


def find_tumor(
    organ: Organ, predictors: Mapping[str, Predictor], thresholds: Mapping[str, float]
) -> dict[str, Prediction]:
    """Both tumor stages, to the last bit what the whole cascade gives; its image is used again."""
    if any(predictor.config.spacing != organ.spacing for predictor in predictors.values()):
        every = segment(organ.case, {**organ.predictors, **predictors}, thresholds=thresholds)
        return {name: every[name] for name in TUMOR}
    found: dict[str, Prediction] = {}
    earlier = organ.earlier
    for name in TUMOR:
        found[name] = segment_stage(predictors[name], organ.prepared, earlier, thresholds.get(name))
        own = find_earlier([(name, found[name].mask)], organ.prepared)
        earlier = own if own[0][1] is not None else [*own, *organ.earlier]
    return found


def _finished_runs(plan: Plan, cell: Cell) -> dict[str, Run]:
    """The finished trainings that a cell needs, by stage."""
    found = {step.stage: find_run(step) for step in steps_of(plan, cell) if step.kind == TRAIN}
    return {stage: run for stage, run in found.items() if run is not None and run.done}
