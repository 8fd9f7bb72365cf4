"""The cells of the tables: whose model, whose cases, and the steps that fill them.

A cell is one evaluation (or four, for four-fold cross-validation). Tables, figures and
`reproduce/run.py` share cells by equality: Table V's Ours is Table III's F-Seg.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.case import Center
from data.centers import load_centers
from engine.command_line import config_arguments, evaluation_arguments
from engine.run_folders import folder_name
from methods import EXTERNAL, make_config, stage_of
from methods.external.base import WHOLE
from reproduce.experiments.plan import Plan
from utils.commands import command_line
from utils.config import DEFAULT_METHOD, Config, Evaluation
from utils.stages import N_FOLDS, PREDICTIONS, STAGES

SEED = make_config(STAGES["tumor_fine"]).seed
TRAIN, EVALUATE = "train", "evaluate"


@dataclass(frozen=True)
class Cell:
    """One evaluation that a table shows."""

    stage: str
    target: str
    sources: tuple[str, ...]  # of the tumor stages; (target,) for cross-validation inside it
    method: str = DEFAULT_METHOD
    roi_source: str = "seg"
    threshold: str = "target"  # or "source-val"
    folds: bool = False
    seed: int = SEED


@dataclass(frozen=True)
class Step:
    """The training or the evaluation of one stage; `name` is its own in its experiment."""

    name: str
    kind: str  # "train" or "evaluate"
    request: Config | Evaluation
    needs: tuple[Step, ...] = ()

    def __hash__(self) -> int:
        """By its name: a request holds mappings."""
        return hash(self.name)

    @property
    def stage(self) -> str:
        """The name of its stage."""
        stage = self.request.stage
        return stage if isinstance(stage, str) else stage.name

    @property
    def config(self) -> Config:
        """What a training is asked to do. Raises TypeError for an evaluation."""
        if not isinstance(self.request, Config):
            raise TypeError(f"{self.name} is no training")
        return self.request

    @property
    def evaluation(self) -> Evaluation:
        """What an evaluation is asked to do. Raises TypeError for a training."""
        if not isinstance(self.request, Evaluation):
            raise TypeError(f"{self.name} is no evaluation")
        return self.request

    @property
    def training(self) -> Step:
        """The training whose run it makes or reads."""
        return self if self.kind == TRAIN else self.needs[0]

    @property
    def folder(self) -> Path:
        """The run folder of its training."""
        config = self.training.config
        return config.checkpoints / _folder_name(config)

    @property
    def before(self) -> Step | None:
        """The evaluation of the stage before, which an evaluation reads; None where none is."""
        return next((other for other in self.needs[1:] if other.stage != self.stage), None)

    @property
    def command(self) -> str:
        """What a user can paste, from the current folder."""
        return command_line(self.kind, self.stage, arguments_of(self.request))


def arguments_of(request: Config | Evaluation) -> tuple[str, ...]:
    """The arguments of the script that does what is requested."""
    if isinstance(request, Config):
        return config_arguments(request)
    return evaluation_arguments(request)


def lesion_centers(centers: Mapping[str, Center]) -> list[str]:
    """The centers that are tested in turn, in the order of centers.toml."""
    return [name for name, center in centers.items() if center.has_lesions]


def choose_targets(
    centers: Mapping[str, Center], asked: Sequence[str] | None, where: Path
) -> tuple[str, ...]:
    """The centers to test on: `asked`, or all with lesions. ValueError for one without, or none.

    `where`: the file that lists the centers, for the message.
    """
    there = lesion_centers(centers)
    unknown = [name for name in asked or () if name not in there]
    if unknown:
        raise ValueError(
            f"--targets {' '.join(unknown)}: choose from the centers with lesions of {where}: "
            f"{', '.join(there)}"
        )
    return tuple(asked or there)


def make_cell(centers: Mapping[str, Center], stage: str, target: str, **more: Any) -> Cell:
    """The cell of a target in the round robin, or inside it with `folds=True`.

    A pancreas stage is the same for each method and each threshold, so it is shared. An external
    method gives labels, the same for each threshold, and one that sees the whole image reads no
    region of interest.
    """
    others = tuple(name for name in lesion_centers(centers) if name != target)
    if STAGES[stage].target == "pancreas":
        more |= {"method": DEFAULT_METHOD, "threshold": "target", "roi_source": "seg"}
    external = EXTERNAL.get(more.get("method", DEFAULT_METHOD))
    if external is not None:
        more |= {"threshold": "target"} | ({"roi_source": "seg"} if external.roi == WHOLE else {})
    return Cell(stage, target, (target,) if more.get("folds") else others, **more)


def steps_of(plan: Plan, cell: Cell) -> tuple[Step, ...]:
    """Every step that fills a cell, each behind the steps that it needs."""
    steps: dict[Step, None] = {}
    for step in evaluations_of(plan, cell):
        _collect(step, steps)
    return tuple(steps)


def evaluations_of(plan: Plan, cell: Cell) -> list[Step]:
    """The evaluations that are a cell: one, or one a fold."""
    folds = range(N_FOLDS) if cell.folds else (None,)
    return [_evaluation(plan, cell, cell.stage, "test", fold) for fold in folds]


def _evaluation(
    plan: Plan,
    cell: Cell,
    stage: str,
    cases: str,
    fold: int | None,
    training: Step | None = None,
) -> Step:
    """The evaluation of a stage for a cell, on its target's cases or held-out ones.

    `training`: whose network is evaluated; None: the cell's own.
    """
    of_tumor = STAGES[stage].target == "tumor"
    threshold = cell.threshold if of_tumor and cases == "test" else "target"
    training = _training(plan, cell, stage, fold) if training is None else training
    config = training.config
    request = Evaluation(
        stage,
        roi_source=cell.roi_source if of_tumor else "seg",
        threshold=threshold,
        cases=cases,
        time=(plan.time,),
        **{name: getattr(config, name) for name in ("centers", "checkpoints", "cache")},
        **{name: getattr(config, name) for name in ("sources", "method", "seed", "fold")},
        target=cell.target,
    )
    needs = [training]
    own = stage_of(config.method, STAGES[stage])
    previous = own.previous
    from_labels = cell.roi_source == "mask" and own.roi == "pancreas"
    if previous is not None and not from_labels:
        needs.append(_evaluation(plan, cell, previous, cases, fold))
    if threshold == "source-val":
        needs.append(_evaluation(plan, cell, stage, "heldout", fold))
    parts = [EVALUATE, training.name.removeprefix(f"{TRAIN}_")]
    parts += ["heldout"] if cases == "heldout" else ["on", cell.target]
    if of_tumor:
        parts += [request.roi_source] + [threshold] * (cases == "test")
    return Step("_".join(parts), EVALUATE, request, tuple(needs))


def _training(plan: Plan, cell: Cell, stage: str, fold: int | None) -> Step:
    of_tumor = STAGES[stage].target == "tumor"
    sources = cell.sources if fold is None else ()
    if fold is None and not of_tumor:
        centers = _centers(plan.centers.resolve())
        free = [name for name, center in centers.items() if not center.has_lesions]
        sources = tuple(name for name in centers if name in (*sources, *free))
    config = replace(
        plan.config(stage, cell.method if of_tumor else DEFAULT_METHOD),
        sources=sources,
        target=cell.target,
        fold=None if fold is None else str(fold),
        seed=cell.seed,
    )
    name = _folder_name(config).removeprefix(f"{plan.time}_")
    around = config.stage.crops_from == PREDICTIONS and fold is None  # else it is refused
    needs = _predictions(plan, cell) if around else ()
    return Step(f"{TRAIN}_{name}", TRAIN, config, needs)


def _predictions(plan: Plan, cell: Cell) -> tuple[Step, ...]:
    """What a coarse network of the cell's other sources finds in each source.

    (`engine/predicted_crops.py`.) Its training names the first center that it does not see as its
    target, so that the cells of several targets share it.
    """
    steps = []
    centers = lesion_centers(_centers(plan.centers.resolve()))
    for name in cell.sources:
        others = tuple(source for source in cell.sources if source != name)
        inner = replace(
            cell, stage="tumor_coarse", target=name, sources=others, roi_source="mask",
            threshold="target",
        )  # fmt: skip
        unseen = next(center for center in centers if center not in others)
        training = _training(plan, replace(inner, target=unseen), "tumor_coarse", None)
        steps.append(_evaluation(plan, inner, "tumor_coarse", "test", None, training))
    return tuple(steps)


def _folder_name(config: Config) -> str:
    sources = config.sources if config.fold is None else (str(config.target),)
    return folder_name(config, str(config.time), sources, config.fold)


@functools.lru_cache(maxsize=8)
def _centers(path: Path) -> dict[str, Center]:
    return load_centers(path)


def _collect(step: Step, into: dict[Step, None]) -> None:
    for needed in step.needs:
        _collect(needed, into)
    into.setdefault(step)
